"""What stands in a page for the ledger: HTML, and the script that sorts and filters."""

CHECK = """
<label><input type="checkbox" name="verdict" value="{verdict}" checked>
{verdict}</label>"""

CHOICE = """<option value="{source}">{source}: {title}</option>"""

HEAD = """<th scope="col"><button type="button">{name}</button></th>"""

BODY = """
<tr id="claim-{id}" data-verdict="{verdict}" data-sources="{sources}"
 data-words="{words}">{cells}</tr>"""

CELLS = """
<th scope="row" data-label="No.">{id}</th>
<td data-label="Claim">{says}<span class="claims-why">{why} {call}</span></td>
<td data-label="Printed" data-key="{printed_key}">{printed}</td>
<td data-label="Ours" data-key="{ours_key}">{ours} <span
 class="claims-unit">{unit}</span></td>
<td data-label="Verdict" data-key="{rank}"><span class="claims-verdict"
 data-verdict="{verdict}">{verdict}</span></td>
<td data-label="Chapter" data-key="{place}"><a aria-label="chapter {place}"
 href="{chapter}.html#{anchor}">{place}</a></td>"""

CALL = """<code class="claims-call">{call}</code>"""

PAGE = """<div class="claims" role="group" aria-label="The ledger of claims">
<style>
.claims fieldset{{border:0;padding:0;margin:.3rem 0;display:flex;flex-wrap:wrap;
gap:.2rem 1rem}}
.claims legend{{float:left;width:auto;padding:0;margin:0 1rem 0 0;font-size:inherit}}
.claims-filter{{display:flex;flex-wrap:wrap;gap:.4rem 1.5rem;margin:.4rem 0}}
.claims-filter>label{{flex:1 1 14rem;min-width:0}}
.claims-filter input,.claims-filter select{{font:inherit;color:inherit;
background:transparent;border:1px solid;border-radius:.3rem;padding:.1rem .4rem}}
.claims-filter [type=search],.claims-filter select{{width:100%;box-sizing:border-box}}
.claims-filter option{{color:#000;background:#fff}}
.claims-scroll{{max-height:80vh;overflow:auto;border:1px solid;border-radius:.3rem}}
.claims table{{border-collapse:collapse;width:100%;margin:0;font-size:.87em;
table-layout:auto}}
.claims td,.claims tbody th{{vertical-align:top;text-align:left;padding:.4rem .5rem;
border-top:1px solid #8886;font-weight:inherit}}
.claims td:nth-child(2){{overflow-wrap:anywhere;min-width:11rem}}
.claims,.claims-scroll,.claims table,.claims thead,.claims tr{{background:inherit}}
.claims thead th{{position:sticky;top:0;padding:0;text-align:left;background:inherit}}
.claims thead button{{font:inherit;font-weight:600;color:inherit;background:none;
border:0;padding:.4rem .5rem;width:100%;text-align:left;cursor:pointer}}
.claims [aria-sort=ascending] button::after{{content:" \\2191"}}
.claims [aria-sort=descending] button::after{{content:" \\2193"}}
.claims-why{{display:block;margin-top:.2rem;font-size:.93em}}
.claims-call{{display:block;margin-top:.2rem;overflow-wrap:anywhere;
white-space:normal;color:inherit;background:none;border:0;padding:0}}
.claims-unit{{font-size:.9em}}
.claims td a{{color:inherit;text-decoration:underline}}
.claims-verdict{{border-left:.4em solid #888;padding-left:.4em;display:inline-block}}
.claims-verdict[data-verdict=correct]{{border-color:#009e73}}
.claims-verdict[data-verdict=misleading]{{border-color:#e69f00}}
.claims-verdict[data-verdict=wrong]{{border-color:#d55e00}}
.claims-verdict[data-verdict="depends on device"]{{border-color:#0072b2}}
@media(max-width:700px){{.claims thead{{display:none}}
.claims tr{{display:block;border-top:1px solid;padding:.4rem 0}}
.claims tr[hidden]{{display:none}}
.claims td,.claims tbody th{{display:block;border:0;padding:.1rem .5rem}}
.claims td:empty{{display:none}}
.claims td:not(:nth-child(2))::before{{content:attr(data-label) ": "}}}}
</style>
<form class="claims-filter" onsubmit="return false">
<fieldset><legend>Verdict</legend>{checks}</fieldset>
<label>Source <select name="source"><option value="">all</option>{choices}</select>
</label>
<label>Words <input type="search" name="words"></label>
</form>
<p class="claims-count" aria-live="polite">{count} of {count} claims</p>
<div class="claims-scroll" tabindex="0" role="region" aria-label="Claims">
<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<script>{script}(document.currentScript.parentElement)</script></div>"""

SCRIPT = """(function (box) {
  const form = box.querySelector("form"), body = box.querySelector("tbody");
  const rows = [...body.rows], count = box.querySelector(".claims-count");
  const heads = [...box.querySelectorAll("thead th")];
  function filter() {
    const verdicts = [...form.elements.verdict].filter((c) => c.checked);
    const wanted = new Set(verdicts.map((c) => c.value));
    const words = form.elements.words.value.toLowerCase().split(/\\s+/);
    const source = form.elements.source.value;
    for (const row of rows) {
      row.hidden = !(wanted.has(row.dataset.verdict)
        && (!source || row.dataset.sources.split(" ").includes(source))
        && words.every((word) => row.dataset.words.includes(word)));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = `${shown} of ${rows.length} claims`;
  }
  const order = new Intl.Collator("en", { numeric: true });
  function compare(a, b, up) {  // cells; an empty one comes last, whatever the order
    const [x, y] = [a, b].map((cell) => cell.dataset.key ?? cell.textContent);
    if (x === "" || y === "") return (x === "") - (y === "");
    const by = isNaN(x) || isNaN(y) ? order.compare(x, y) : x - y;
    return up ? by : -by;
  }
  function sort(column) {
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const sorted = rows.slice();  // a stable sort: equals stay in the ledger's order
    sorted.sort((a, b) => compare(a.cells[column], b.cells[column], up));
    body.append(...sorted);
  }
  form.addEventListener("input", filter);
  heads.forEach((head, i) =>
    head.querySelector("button").addEventListener("click", () => sort(i)));
  addEventListener("pageshow", filter);  // a browser restores a form after this
})"""
