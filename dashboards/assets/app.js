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

  // A click on a cell opens its pair below, and goes there once it is drawn.
  function open(triggered) {
    const point = triggered.map(({ value }) => value?.points?.[0]).find((p) => p);
    if (!point?.x) return;
    choose("pair", `${point.y}~${point.x}`);
    const place = document.getElementById("opened");
    new MutationObserver((_, watch) => {
      watch.disconnect();
      requestAnimationFrame(() => {
        place.firstElementChild?.scrollIntoView({ behavior: "smooth" });
        place.firstElementChild?.focus({ preventScroll: true });
      });
    }).observe(place, { childList: true });
  }

  window.bikd = { open };
})();
