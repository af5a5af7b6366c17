"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage"]], displayModeBar: "hover",
  };

  function draw(element) {
    const figure = data.figures[element.dataset.figure];
    const template = data.templates[dark.matches ? "dark" : "light"];
    // a copy, as Plotly writes into what it is given and groups share figures
    const { data: traces, layout } = structuredClone(figure);
    Plotly.react(element, traces, { ...layout, template }, config);
    element.dataset.drawn = "";
  }

  // Figures are drawn when they come near the window: hidden ones never are.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { near.unobserve(target); draw(target); }
    }
  }, { rootMargin: "500px" });
  document.querySelectorAll(".plot").forEach((element) => near.observe(element));
  dark.addEventListener("change", () => document.querySelectorAll("[data-drawn]").forEach(draw));

  // Choosers: each shows one panel of its name, and the link remembers the choice.
  const choosers = [...document.querySelectorAll("select[data-choice]")];

  function show(chooser) {
    const scope = chooser.closest("section") ?? document;
    for (const panel of scope.querySelectorAll(`[data-panel="${chooser.dataset.choice}"]`)) {
      panel.hidden = panel.dataset.value !== chooser.value;
    }
  }

  function choose(name, value) {
    for (const chooser of choosers.filter((c) => c.dataset.choice === name)) {
      if ([...chooser.options].some((option) => option.value === value)) chooser.value = value;
      show(chooser);
    }
  }

  function fromLink() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of chosen) choose(name, value);
  }

  for (const chooser of choosers) {
    show(chooser);
    chooser.addEventListener("change", () => {
      const { choice } = chooser.dataset;
      choose(choice, chooser.value);
      const link = new URLSearchParams(location.hash.slice(1));
      link.set(choice, chooser.value);
      history.replaceState(null, "", `#${link}`);
    });
  }
  addEventListener("hashchange", fromLink);
  fromLink();

  // Section links scroll without touching the link, which holds the choices.
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      const found = [...document.querySelectorAll(`[data-section="${link.hash.slice(1)}"]`)];
      const target = found.find((element) => element.offsetParent !== null);
      if (!target) return;
      event.preventDefault();
      target.scrollIntoView({ behavior: "instant" });
      target.focus({ preventScroll: true });
    });
  }

  for (const button of document.querySelectorAll("button[data-file]")) {
    button.addEventListener("click", () => {
      const { file } = button.dataset;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([data.files[file]], { type: "text/csv" }));
      link.download = file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }
})();
