"use strict";
(() => {
  const set = (id, values) => window.dash_clientside.set_props(id, values);

  // Choices live in the link, so that a copied link shows the same view.
  function choose(name, value) {
    const link = new URLSearchParams(location.search);
    link.set(name, value);
    set("link", { search: `?${link}` });
  }

  document.addEventListener("change", ({ target }) => {
    const { choice } = target.dataset ?? {};
    if (choice) choose(choice, target.value);
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => {
    set("colours", { data: matches ? "dark" : "light" });
  });

  // The pair of a cell opens below, and the page goes there once it is drawn.
  function open(pair) {
    choose("pair", pair);
    const place = document.getElementById("opened");
    new MutationObserver((_, watch) => {
      watch.disconnect();
      requestAnimationFrame(() => {
        place.firstElementChild?.scrollIntoView({ behavior: "smooth" });
        place.firstElementChild?.focus({ preventScroll: true });
      });
    }).observe(place, { childList: true });
  }

  // Plotly draws a heatmap at its own time: it is attended to when somebody comes to it.
  function attend({ target }) {
    const plot = target.closest?.(".pair figure")?.querySelector(".js-plotly-plot");
    if (plot?.on && plot.layout?.meta) window.bikd.watch(plot, window.bikd.cells, open);
  }

  for (const coming of ["pointerover", "focusin"]) document.addEventListener(coming, attend);
})();
