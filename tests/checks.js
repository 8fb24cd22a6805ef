// What can only be seen in a laid-out page. Each check returns a list of problems.
window.checks = (() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  function named(element) {
    const id = element.id && "#" + element.id, kind = element.getAttribute("class");
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
    return `<${element.localName}${id}${kind ? "." + kind : ""}> ${text}`;
  }

  // --- width ---------------------------------------------------------------

  const overflow = (element) => getComputedStyle(element).overflowX;

  // The nearest element around it that is on the screen and clips or scrolls it.
  function holder(element) {
    for (let at = element.parentElement; at !== document.body; at = at.parentElement) {
      const inside = at.getBoundingClientRect().right <= innerWidth + 1;
      if (inside && overflow(at) !== "visible") return at;
    }
    return null;
  }

  function sticksOut(element) {
    const box = element.getBoundingClientRect();
    if (!box.width || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
    if (element.closest("mjx-assistive-mml")) return false;  // for screen readers
    const around = holder(element);
    return !around || !["auto", "scroll"].includes(overflow(around));
  }

  function isCut(element) {
    const cuts = ["hidden", "clip"].includes(overflow(element));
    const tooWide = element.scrollWidth > element.clientWidth + 1;
    return cuts && (tooWide || element.scrollHeight > element.clientHeight + 1);
  }

  function tooWide() {
    const found = [], page = document.documentElement.scrollWidth;
    if (page > innerWidth) found.push(`page is ${page} px wide, screen ${innerWidth}`);
    const out = all(".bd-article *").filter(sticksOut);
    const outermost = out.filter((element) => !out.includes(element.parentElement));
    const blocks = "pre, table, figure, figcaption, .explore, .explore-caption";
    return found.concat(
      outermost.map((element) => `sticks out of the screen: ${named(element)}`),
      all(blocks).filter(isCut).map((element) => `is cut off: ${named(element)}`),
    );
  }

  // --- math and figures ----------------------------------------------------

  function texLeftInText() {
    const found = [], article = document.querySelector(".bd-article");
    const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode.data, parent = texts.currentNode.parentElement;
      if (parent.closest("pre, code, script, style, mjx-container")) continue;
      const tex = text.match(/\$[^$]*[\\^_{][^$]*\$|\\\(|\\\[|\\begin\{/);
      if (tex) found.push(`TeX in the text: ${text.trim().slice(0, 80)}`);
    }
    return found;
  }

  function math() {
    const raw = (element) => !element.querySelector("mjx-container svg");
    const unknown = "[data-mml-node='mtext'][fill='red']";  // a command it lacks
    const wrong = `[data-mml-node='merror'], mjx-merror, ${unknown}`;
    return texLeftInText().concat(
      all(".math").filter(raw).map((element) => `not rendered: ${named(element)}`),
      all(wrong).map((element) => `math error: ${named(element)}`),
    );
  }

  function captionProblem(figure) {
    const img = figure.querySelector("img");
    const caption = figure.querySelector("figcaption");
    if (!img) return null;
    const after = Node.DOCUMENT_POSITION_FOLLOWING;
    if (!caption || !(img.compareDocumentPosition(caption) & after)) {
      return `no caption after the picture: ${named(figure)}`;
    }
    const words = caption.cloneNode(true);
    all(".caption-number, .headerlink", words).forEach((part) => part.remove());
    return words.textContent.trim() ? null : `empty caption: ${named(figure)}`;
  }

  function figures() {
    const images = all(".bd-article img");
    const bare = images.filter((img) => !img.closest("figure, .explore"));
    const lost = images.filter((img) => !img.naturalWidth);
    return all(".bd-article figure").map(captionProblem).filter(Boolean).concat(
      bare.map((img) => `picture without a figure around it: ${img.alt}`),
      lost.map((img) => `picture does not load: ${img.alt}`),
    );
  }

  // --- folds ---------------------------------------------------------------

  async function openFolds() {
    all(".bd-article .toggle-button-hidden").forEach((button) => button.click());
    all(".bd-article details:not([open]) > summary").forEach((title) => title.click());
    document.getAnimations().forEach((animation) => animation.finish());
    await nextFrame();  // in which observers of sizes were told
  }

  // Two, for what is asked for before a frame is only done within it.
  const nextFrame = () => new Promise(
    (done) => requestAnimationFrame(() => requestAnimationFrame(done)));

  const titleOf = (handle) => handle.closest(".admonition-title, summary");

  // What a reader sees of a fold beside its title.
  function foldedText(handle) {
    document.getAnimations().forEach((animation) => animation.finish());
    const fold = handle.closest(".admonition, details");
    return fold.innerText.replace(titleOf(handle).innerText, "").trim();
  }

  // Of the ring around what has the focus; null when all of it is seen.
  function focusProblem(element) {
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    if (style.outlineStyle === "none") {
      return style.boxShadow === "none" ? "cannot be seen" : null;
    }
    const ring = parseFloat(style.outlineWidth) + parseFloat(style.outlineOffset);
    let at = element.parentElement;
    while (at !== document.body && overflow(at) === "visible") at = at.parentElement;
    const around = at.getBoundingClientRect();
    const left = box.left - ring - around.left, right = around.right - box.right - ring;
    return Math.min(left, right) > -1.5 ? null : "is cut off";
  }

  // --- sliders -------------------------------------------------------------

  const inputsOf = (box) => all("input[type='range']", box);
  const framesOf = (box) =>
    JSON.parse(box.querySelector("script[type='application/json']").textContent);
  const chosen = (input) => JSON.parse(input.dataset.values)[input.value];

  // Row-major over the sliders in the order of the page, worked out here once more.
  function frameAt(box) {
    const step = (at, input) => at * (Number(input.max) + 1) + Number(input.value);
    return framesOf(box)[inputsOf(box).reduce(step, 0)];
  }

  // A length as a slider may write it, and as a caption may.
  function spellings(value) {
    const [, thousands] = value.match(/^(\d+)K$/) || [];
    const full = [1024, 1000].map((k) => (thousands * k).toLocaleString("en-US"));
    return thousands ? [value, ...full] : [value];
  }

  function names(text, value) {
    const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const whole = (word) => `(?<![\\w,.])${escaped(word)}(?!\\w|[,.]\\d)`;
    return new RegExp(spellings(value).map(whole).join("|"), "i").test(text);
  }

  function outputProblem(box, input) {
    const shown = box.querySelector(`output[for="${input.id}"]`)?.textContent;
    const spoken = input.getAttribute("aria-valuetext"), value = chosen(input);
    if (shown === value && spoken === value) return null;
    return `${input.id} is at ${value}, shows ${shown}, says ${spoken}`;
  }

  // Does the picture belong to where the sliders stand?
  function disagreements(box) {
    const inputs = inputsOf(box), frame = frameAt(box), img = box.querySelector("img");
    const caption = box.querySelector(".explore-caption").textContent;
    const at = inputs.map((input) => `${input.id}=${chosen(input)}`).join(" ");
    if (!frame) return [`${at}: no frame`];
    const unnamed = inputs.map(chosen).filter(
      (value) => !names(`${frame.caption} ${frame.alt}`, value));
    return inputs.map((input) => outputProblem(box, input)).filter(Boolean).concat(
      img.getAttribute("src") === "data:image/png;base64," + frame.png ? []
        : [`${at}: another picture`],
      img.alt === frame.alt ? [] : [`${at}: another alt text, ${img.alt}`],
      caption === frame.caption ? [] : [`${at}: another caption, ${caption}`],
      unnamed.map((value) => `${at}: caption and alt text do not name ${value}`),
    );
  }

  // Before any script has run: the page as its file has it.
  function disagreementsInFile(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    return all(".explore", page).flatMap(disagreements);
  }

  async function pixels(img) {
    await img.decode();
    const [w, h] = [img.naturalWidth, img.naturalHeight];
    const pen = new OffscreenCanvas(w, h).getContext("2d");
    pen.drawImage(img, 0, 0);
    const words = new Uint32Array(pen.getImageData(0, 0, w, h).data.buffer);
    return words.reduce((sum, word, i) => (Math.imul(sum, 31) + word + i) | 0, w);
  }

  function combinations(counts) {
    const extend = (rows, n) =>
      rows.flatMap((row) => [...Array(n).keys()].map((i) => [...row, i]));
    return counts.reduce(extend, [[]]);
  }

  function moveTo(box, positions) {
    inputsOf(box).forEach((input, i) => {
      input.value = positions[i];
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  // A slider does something if some picture changes when it alone moves.
  function idle(inputs, seen) {
    const groups = (i) => seen.reduce((rest, { at, sum }) => {
      const others = at.toSpliced(i, 1).join();
      return rest.set(others, (rest.get(others) || new Set()).add(sum));
    }, new Map());
    return inputs.filter((input, i) =>
      Number(input.max) && [...groups(i).values()].every((sums) => sums.size === 1));
  }

  async function frames(box) {
    const inputs = inputsOf(box), img = box.querySelector("img"), found = [], seen = [];
    const every = combinations(inputs.map((input) => Number(input.max) + 1));
    const count = framesOf(box).length, places = every.length;
    if (count !== places) found.push(`${count} frames for ${places} places`);
    for (const at of every) {
      moveTo(box, at);
      found.push(...disagreements(box));
      try {
        seen.push({ at, sum: await pixels(img) });
      } catch {
        found.push(`the picture at ${at} does not decode`);
      }
    }
    return found.concat(
      idle(inputs, seen).map((input) => `${input.id} changes no picture`));
  }

  function labelOf(input) {
    const label = document.querySelector(`label[for="${input.id}"]`)?.cloneNode(true);
    label?.querySelectorAll("output").forEach((output) => output.remove());
    return label?.textContent.trim().replace(/:$/, "") ?? "";
  }

  // --- code ----------------------------------------------------------------

  // Unwrap tokens that look like one before them: axe needs each color only once.
  function thinCode() {
    const seen = new Set(), tokens = all(".highlight pre span");
    for (const token of tokens) {
      const where = [".cell_output", ".admonition"].map((box) => !!token.closest(box));
      const look = [token.className, getComputedStyle(token).color, ...where].join();
      const again = seen.has(look) && !token.children.length;
      if (again) token.replaceWith(token.textContent);
      seen.add(look);
    }
    return tokens.length - seen.size;
  }

  // Code that scrolls but is skipped by Tab, or does not and is a stop.
  function stops() {
    return all(".bd-article pre").flatMap((pre) => {
      const wide = pre.scrollWidth > pre.clientWidth;
      const scrolls = wide || pre.scrollHeight > pre.clientHeight;
      if (scrolls === (pre.tabIndex >= 0)) return [];
      return [`${scrolls ? "scrolls, but is no stop" : "is a stop"}: ${named(pre)}`];
    });
  }

  return {
    tooWide, math, figures, openFolds, titleOf, foldedText, focusProblem,
    disagreements, disagreementsInFile, frames, labelOf, thinCode, stops,
  };
})();
