"use strict";
(() => {
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const lighter = JSON.parse(document.getElementById("lighter").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const selects = [...document.querySelectorAll("select[data-choice]")];
  const chosen = Object.fromEntries(selects.map((select) => [select.dataset.choice, select.value]));
  const toast = document.querySelector(".toast[role]");

  function say(text, seconds) {
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => { toast.hidden = true; }, 1000 * seconds);
  }

  // Parts of the page are gzip in base64; each is unpacked once, when it is first wanted.
  const packed = new Map(
    [...document.querySelectorAll("[data-packed]")].map((e) => [e.dataset.packed, e]),
  );
  const unpacking = new Map();

  async function unpack(name) {
    const bytes = window.bikd.bytes(packed.get(name).textContent.trim());
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function part(name, made = (text) => text) {
    if (!unpacking.has(name)) unpacking.set(name, unpack(name).then(made));
    return unpacking.get(name);
  }

  const plotly = () => part("plotly", (code) => {
    const script = document.createElement("script");
    script.textContent = code;
    document.head.append(script);
  });

  // A heatmap comes in the order of the scores before; the others are permutations of its models.
  function ordered(cells, by) {
    const rows = cells.orders?.[by] ?? cells.learners.map((_, i) => i);
    const columns = cells.partners.map((_, i) => rows[i] ?? i);
    const turned = (list, order) => list.constructor.from(order, (i) => list[i]);
    const matrix = (values) => (
      Array.isArray(values) ? turned(values, rows).map((row) => turned(row, columns)) : values
    );
    const names = { learners: rows, learner_ids: rows, partners: columns, partner_ids: columns };
    return {
      ...cells,
      ...Object.fromEntries(Object.entries(names).map(([k, order]) => [k, turned(cells[k], order)])),
      ...Object.fromEntries(["low", "high", "seeds", "n"].map((k) => [k, matrix(cells[k])])),
      values: cells.values.map(matrix),
      text: cells.text.map(matrix),
      ticks: [rows, columns],
    };
  }

  // Lines and marks of the light page are dim on the dark one; arrays of numbers stay as they are.
  function brighter(value) {
    if (typeof value === "string") return lighter[value] ?? value;
    if (Array.isArray(value)) return value.map(brighter);
    if (value?.constructor !== Object) return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, brighter(v)]));
  }

  const shown = new WeakMap(); // a heatmap's element to its cells as they are drawn

  async function draw(element) {
    const name = element.dataset.part;
    const [source] = await Promise.all([part(name, JSON.parse), plotly()]);
    const template = templates[dark.matches ? "dark" : "light"];
    let { data, layout } = source;
    const opens = "opens" in element.dataset;
    if (opens) {
      source.cells ??= { ...window.bikd.cells(source), text: data.map(({ text }) => text) };
      const cells = ordered(source.cells, chosen.order);
      const label = (axis, order) => (
        { ...layout[axis], ticktext: order.map((i) => layout[axis].ticktext[i]) }
      );
      const [rows, columns] = cells.ticks;
      shown.set(element, cells);
      data = data.map((trace, i) => ({ ...trace, z: cells.values[i], text: cells.text[i] }));
      layout = { ...layout, yaxis: label("yaxis", rows), xaxis: label("xaxis", columns) };
      delete layout.meta;
    } else {
      // a copy, as Plotly writes into what it is given and settings share figures
      ({ data, layout } = structuredClone(source));
    }
    element.style.minHeight = `${layout.height}px`; // Plotly lets go of it when the window changes
    if (dark.matches) { [data, layout] = brighter([data, layout]); }
    await Plotly.react(element, data, { ...layout, template }, {
      responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtons: [layout.dragmode === "pan" ? ["toImage", "resetScale2d"] : ["toImage"]],
      scrollZoom: layout.dragmode === "pan",
    });
    element.dataset.drawn = "";
    // the scheme may have changed meanwhile, before this figure was one to draw again
    if (template !== templates[dark.matches ? "dark" : "light"]) return draw(element);
    if (opens) window.bikd.watch(element, () => shown.get(element), open);
  }

  // Figures are drawn when they come near the window: hidden ones never are.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { near.unobserve(target); draw(target); }
    }
  }, { rootMargin: "500px" });
  const observe = (within) => within.querySelectorAll(".plot").forEach((e) => near.observe(e));
  const redraw = (selector) => document.querySelectorAll(selector).forEach(draw);
  dark.addEventListener("change", () => redraw("[data-drawn]"));

  async function fill(panel) {
    if (panel.dataset.filled === undefined) {
      panel.dataset.filled = "";
      panel.innerHTML = await part(panel.dataset.part);
      observe(panel);
    }
  }

  // Each choice shows one panel of its name, and the link remembers it.
  function same(name, value, wanted) {
    return value === wanted || (name === "pair" && value === wanted?.split("~").reverse().join("~"));
  }

  async function choose(name, value) {
    const lists = selects.filter((select) => select.dataset.choice === name);
    const known = lists.filter((s) => [...s.options].some((option) => option.value === value));
    if (lists.length && !known.length) return;
    known.forEach((select) => { select.value = value; });
    chosen[name] = value;
    const filling = [];
    for (const panel of document.querySelectorAll(`[data-panel="${name}"]`)) {
      panel.hidden = !same(name, panel.dataset.value, value);
      if (!panel.hidden && panel.dataset.part) filling.push(fill(panel));
    }
    if (name === "order") redraw("[data-drawn][data-opens]");
    await Promise.all(filling);
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

  async function open(pair, lines) {
    await choose("pair", pair);
    remember("pair", pair);
    const panel = seen('[data-panel="pair"]');
    if (panel) { panel.tabIndex = -1; goTo(panel); return; }
    const told = (lines ?? []).map((parts) => parts.map(([text]) => text).join("")).join(" · ");
    say(`${told ? `${told}. ` : ""}Not opened in this file; bikd dashboard opens every pair.`, 8);
  }

  async function fromLink() {
    const link = new URLSearchParams(location.hash.slice(1));
    const choices = [...link].filter(([name]) => name !== "page" && name !== "pair");
    await Promise.all(choices.map(([name, value]) => choose(name, value)));
    if (link.has("pair")) await open(link.get("pair"));
    else if (link.has("page")) goTo(seen(`[data-section="${CSS.escape(link.get("page"))}"]`));
  }

  async function start() {
    if (!window.DecompressionStream) {
      say("This browser is too old to show figures, models and pairs.", 60);
      return;
    }
    observe(document);
    await Promise.all(Object.entries(chosen).map(([name, value]) => choose(name, value)));
    if (location.hash) await fromLink();
    setTimeout(drawRest, 3000);
  }

  for (const select of selects) {
    select.addEventListener("change", () => {
      choose(select.dataset.choice, select.value);
      remember(select.dataset.choice, select.value);
    });
  }
  addEventListener("hashchange", fromLink);

  // Print has what is open on the screen: figures below the window are drawn when there is time.
  function drawRest() {
    const left = [...document.querySelectorAll(".plot:not([data-drawn])")];
    left.filter((e) => e.offsetParent !== null).forEach((e) => { near.unobserve(e); draw(e); });
  }
  addEventListener("beforeprint", () => {
    drawRest();
    document.querySelectorAll("details:not([open])").forEach((e) => {
      if (!e.querySelector("pre")) e.dataset.opened = e.open = true;
    });
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-opened]").forEach((e) => {
      e.open = false;
      delete e.dataset.opened;
    });
  });

  // Section links scroll without touching the link, which holds the choices.
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      goTo(seen(`[data-section="${link.hash.slice(1)}"]`));
    });
  }

  document.addEventListener("click", async ({ target }) => {
    const { file, part: name } = target.closest("button[data-file]")?.dataset ?? {};
    if (!file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await part(name)], { type: "text/csv" }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });

  start();
})();
