"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage"]], displayModeBar: "hover",
  };
  const selects = [...document.querySelectorAll("select[data-choice]")];
  const chosen = Object.fromEntries(selects.map((select) => [select.dataset.choice, select.value]));

  // A heatmap comes in the order of accuracy; the others are permutations of its models.
  function ordered(figure) {
    const orders = figure.layout.meta?.orders;
    const rows = orders?.[chosen.order];
    if (!rows) return figure;
    const rest = (length) => Array.from({ length: length - rows.length }, (_, i) => rows.length + i);
    const turned = (list, by) => by.map((i) => list[i]);
    const columns = [...rows, ...rest(figure.data[0].x.length)];
    for (const trace of figure.data) {
      trace.y = turned(trace.y, rows);
      trace.x = turned(trace.x, columns);
      for (const name of ["z", "text", "hovertext"]) {
        if (Array.isArray(trace[name])) {
          trace[name] = turned(trace[name], rows).map((row) => turned(row, columns));
        }
      }
    }
    for (const [axis, by] of [["yaxis", rows], ["xaxis", columns]]) {
      for (const name of ["tickvals", "ticktext"]) {
        figure.layout[axis][name] = turned(figure.layout[axis][name], by);
      }
    }
    return figure;
  }

  function draw(element) {
    const template = data.templates[dark.matches ? "dark" : "light"];
    // a copy, as Plotly writes into what it is given and groups share figures
    const figure = ordered(structuredClone(data.figures[element.dataset.figure]));
    Plotly.react(element, figure.data, { ...figure.layout, template }, config);
    if (!("drawn" in element.dataset) && "opens" in element.dataset) {
      element.on("plotly_click", ({ points: [{ x, y }] }) => { if (x) open(`${y}~${x}`); });
    }
    element.dataset.drawn = "";
  }

  // Figures are drawn when they come near the window: hidden ones never are.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { near.unobserve(target); draw(target); }
    }
  }, { rootMargin: "500px" });
  document.querySelectorAll(".plot").forEach((element) => near.observe(element));
  const redraw = (selector) => document.querySelectorAll(selector).forEach(draw);
  dark.addEventListener("change", () => redraw("[data-drawn]"));

  // Each choice shows one panel of its name, and the link remembers it.
  function same(name, value, shown) {
    return value === shown || (name === "pair" && value === shown?.split("~").reverse().join("~"));
  }

  function choose(name, value) {
    const lists = selects.filter((select) => select.dataset.choice === name);
    const known = lists.filter((s) => [...s.options].some((option) => option.value === value));
    if (lists.length && !known.length) return;
    known.forEach((select) => { select.value = value; });
    chosen[name] = value;
    for (const panel of document.querySelectorAll(`[data-panel="${name}"]`)) {
      panel.hidden = !same(name, panel.dataset.value, value);
    }
    if (name === "order") redraw("[data-drawn][data-opens]");
  }

  function remember(name, value) {
    const link = new URLSearchParams(location.hash.slice(1));
    link.delete("page");
    link.set(name, value);
    history.replaceState(null, "", `#${link}`);
  }

  function seen(selector) {
    return [...document.querySelectorAll(selector)].find((e) => e.offsetParent !== null);
  }

  function goTo(target) {
    target?.scrollIntoView({ behavior: "instant" });
    target?.focus({ preventScroll: true });
  }

  function open(pair) {
    choose("pair", pair);
    remember("pair", pair);
    const panel = seen('[data-panel="pair"]');
    if (panel) { panel.tabIndex = -1; goTo(panel); return; }
    const toast = document.querySelector(".toast");
    toast.textContent = "This pair is not in this file; bikd dashboard opens every pair.";
    toast.hidden = false;
    setTimeout(() => { toast.hidden = true; }, 4000);
  }

  function fromLink() {
    const link = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of link) if (name !== "page" && name !== "pair") choose(name, value);
    if (link.has("pair")) { open(link.get("pair")); return; }
    if (link.has("page")) goTo(seen(`[data-section="${CSS.escape(link.get("page"))}"]`));
  }

  for (const [name, value] of Object.entries(chosen)) choose(name, value);
  for (const select of selects) {
    select.addEventListener("change", () => {
      choose(select.dataset.choice, select.value);
      remember(select.dataset.choice, select.value);
    });
  }
  addEventListener("hashchange", fromLink);
  if (location.hash) fromLink();

  // Section links scroll without touching the link, which holds the choices.
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      goTo(seen(`[data-section="${link.hash.slice(1)}"]`));
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
