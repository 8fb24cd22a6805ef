// Code that scrolls can be reached by keyboard, and code that does not is no stop.
// The theme looks when a page is loaded, but a fold has another width once it is open.
addEventListener("DOMContentLoaded", () => {
  const sizes = new ResizeObserver((changed) => changed.forEach(({ target }) => {
    const wide = target.scrollWidth > target.clientWidth;
    const scrolls = wide || target.scrollHeight > target.clientHeight;
    if (scrolls) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }));
  for (const box of document.querySelectorAll("pre, .cell_output > .output")) {
    sizes.observe(box);
  }
});
