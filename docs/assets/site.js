// Names and focus that the theme leaves out: of the search dialog, of the copy buttons, of what scrolls sideways.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, index) => nav.setAttribute("aria-label", `Code block ${index + 1}`));
  document.querySelectorAll(".md-typeset__scrollwrap, .formula, .md-typeset pre > code").forEach(part => part.setAttribute("tabindex", "0"));
});
