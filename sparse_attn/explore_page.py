"""What stands in a rendered page for `explore`: HTML, and the script that moves it."""

SLIDER = """
<div class="explore-slider"><label for="{id}">{label}:</label>
<output for="{id}">{value}</output>
<input type="range" id="{id}" min="0" max="{last}" step="1" value="{at}"
 aria-valuetext="{value}" data-values="{values}"></div>"""

BUTTONS = """
<div class="explore-play" role="group" aria-label="{label}" data-of="{id}"
 data-pace="{pace}">
<button type="button" aria-label="Back: {label}">Back</button>
<button type="button" aria-label="Play: {label}">Play</button>
<button type="button" aria-label="Forward: {label}">Forward</button></div>"""

PAGE = """<div class="explore" id="{id}" role="group" aria-label="{label}">
<style>.explore-sliders{{display:flex;flex-wrap:wrap;gap:.5rem 2rem;
padding:.3rem .5rem}}
.explore-slider{{flex:1 1 14rem;max-width:22rem}}.explore-slider input{{width:100%}}
.explore-play{{display:flex;gap:.5rem;padding:.3rem .5rem .7rem}}
.explore-play button{{font:inherit;color:inherit;background:none;min-width:5.5em;
padding:.2rem .6rem;border:1px solid;border-radius:.3rem;cursor:pointer}}
.explore-caption,.explore-device{{font-size:.9em;margin:.3rem 0}}</style>
<div class="explore-sliders">{sliders}</div>{buttons}
{picture}
<p class="explore-device">Drawn beforehand, computed on {device}</p>
<script type="application/json">{frames}</script>
<script>{script}("{id}")</script></div>"""

SCRIPT = """(function (id) {
  const box = document.getElementById(id), inputs = [...box.querySelectorAll("input")];
  const frames = JSON.parse(box.querySelector("script[type='application/json']").text);
  const img = box.querySelector("img"), caption = box.querySelector(".explore-caption");
  const player = box.querySelector(".explore-play");
  function show() {
    let at = 0;
    for (const input of inputs) {
      const values = JSON.parse(input.dataset.values), shown = values[input.value];
      input.setAttribute("aria-valuetext", shown);
      box.querySelector(`output[for="${input.id}"]`).textContent = shown;
      at = at * values.length + Number(input.value);
    }
    img.src = "data:image/png;base64," + frames[at].png;
    img.alt = frames[at].alt;
    caption.textContent = frames[at].caption;
  }
  function addButtons() {
    const input = inputs.find((input) => input.id === player.dataset.of);
    const [back, play, forward] = player.children;
    const label = player.getAttribute("aria-label");
    let timer = null;
    function move(by) {
      input.value = Number(input.value) + by;  // a range stays within its ends
      show();
    }
    function turn(on) {  // captions are read out, but not while they fly by
      clearInterval(timer);
      timer = on ? setInterval(next, player.dataset.pace) : null;
      play.textContent = on ? "Pause" : "Play";
      play.setAttribute("aria-label", `${play.textContent}: ${label}`);
      caption.setAttribute("aria-live", on ? "off" : "polite");
    }
    function next() {
      if (Number(input.value) + 1 >= input.max) turn(false);
      move(1);
    }
    back.addEventListener("click", () => { turn(false); move(-1); });
    forward.addEventListener("click", () => { turn(false); move(1); });
    play.addEventListener("click", () => {
      turn(!timer);
      if (timer && input.value === input.max) move(-input.max);
    });
    input.addEventListener("input", () => turn(false));
  }
  inputs.forEach((input) => input.addEventListener("input", show));
  if (player) addButtons();
  show();
  addEventListener("pageshow", show);  // a browser restores positions after this
})"""
