"use strict";
// The cells of heatmaps: their numbers come as packed arrays in the figure's `meta`, and become
// words only where somebody points. The report and the app use this file alike.
window.bikd = (() => {
  const KINDS = {
    f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array,
    i4: Int32Array,
  };
  const NOTHING = -32768; // of whole numbers, which have no NaN
  const MINUS = "\u2212";

  function bytes(base64) {
    const text = atob(base64);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) found[i] = text.charCodeAt(i);
    return found;
  }

  // A packed matrix as an array of rows; anything else as it is.
  function unpacked(spec) {
    if (!spec?.bdata) return spec;
    let flat = new KINDS[spec.dtype](bytes(spec.bdata).buffer);
    if (spec.scale) {
      flat = Float32Array.from(flat, (v) => (v === NOTHING ? NaN : v / spec.scale));
    }
    const [rows, columns] = `${spec.shape}`.split(",").map(Number);
    return Array.from({ length: rows }, (_, i) => flat.subarray(i * columns, (i + 1) * columns));
  }

  // What the cells of a figure say: its meta with unpacked arrays, and the values of its traces.
  const known = new WeakMap();
  function cells({ data, layout: { meta } }) {
    if (!known.has(meta)) {
      const arrays = ["low", "high", "seeds", "n"].map((name) => [name, unpacked(meta[name])]);
      const values = data.map(({ z }) => unpacked(z));
      known.set(meta, { ...meta, ...Object.fromEntries(arrays), values });
    }
    return known.get(meta);
  }

  const at = (array, row, column) => (array?.[row] ? array[row][column] : array);

  function number(value, digits, signed) {
    const text = Math.abs(value).toFixed(digits);
    if (Number(text) === 0) return text;
    return (value < 0 ? MINUS : signed ? "+" : "") + text;
  }

  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  // The lines of one cell as [text, bold] parts; nothing for an empty one.
  function told(of, row, column) {
    const there = (v) => v !== null && v !== undefined && !Number.isNaN(v);
    const trace = of.values.findIndex((rows) => there(rows[row]?.[column]));
    if (trace < 0) return null;
    const value = of.values[trace][row][column];
    const [low, high, seeds, n] = ["low", "high", "seeds", "n"].map((k) => at(of[k], row, column));
    const who = [[of.learners[row], true]];
    if (of.partner_ids[column]) who.push([of.joint, false], [of.partners[column], true]);
    else who.push([" alone (control)", false]);
    const shown = `${of.title} ${number(value, of.digits, of.signed)} ${of.unit}`;
    if (trace === 2) return [who, [["not trained", false]], [[`expected ${shown} (model)`, false]]];
    if (trace === 3) return [who, [["not trained", false]]];
    const lines = [who, [[shown, false]]];
    if (there(low)) {
      const ends = [low, high].map((v) => number(v, of.digits, true)).join(", ");
      lines.push([[`95% interval [${ends}]`, false]]);
    }
    const sample = there(seeds) ? `${count(seeds, "seed")}, ` : "";
    if (there(n)) lines.push([[`${sample}n = ${n.toLocaleString("en")}`, false]]);
    return lines;
  }

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;

  function show(lines, x, y) {
    tip.hidden = !lines;
    if (!lines) return;
    tip.replaceChildren(...lines.map((parts) => {
      const line = document.createElement("div");
      line.append(...parts.map(([text, bold]) => {
        const part = document.createElement(bold ? "b" : "span");
        part.textContent = text;
        return part;
      }));
      return line;
    }));
    if (!tip.isConnected) document.body.append(tip);
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(x + 14, innerWidth - width - 8);
    const top = y + 18 + height > innerHeight ? y - height - 12 : y + 18;
    tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, top)}px)`;
  }

  const watched = new WeakSet();

  // Tells what is pointed at, by mouse or arrow keys, and opens the pair that is chosen. of: what
  // the cells of the plot are at this moment.
  function watch(plot, of, open) {
    if (watched.has(plot)) return;
    watched.add(plot);
    const chosen = (row, column) => {
      const { learner_ids: learners, partner_ids: partners } = of(plot);
      if (partners[column]) open(`${learners[row]}~${partners[column]}`, told(of(plot), row, column));
    };
    plot.on("plotly_hover", ({ points: [{ x, y }], event }) => {
      show(told(of(plot), y, x), event.clientX, event.clientY);
    });
    plot.on("plotly_unhover", () => show(null));
    plot.on("plotly_click", ({ points: [{ x, y }] }) => { show(null); chosen(y, x); });
    const frame = plot.closest("figure");
    let place = null;
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const now = of(plot);
      if (event.key === "Enter" && place) chosen(...place);
      if (!step[event.key]) return;
      event.preventDefault();
      const last = [now.learners.length - 1, now.partners.length - 1];
      const from = place ?? [0, -1];
      place = from.map((v, i) => Math.max(0, Math.min(last[i], v + step[event.key][i])));
      const [row, column] = place;
      const nothing = [[[`${now.learners[row]}${now.joint}${now.partners[column]}: nothing`, false]]];
      const { xaxis, yaxis } = plot._fullLayout;
      const { left, top } = plot.getBoundingClientRect();
      const x = left + xaxis._offset + xaxis.d2p(column);
      show(told(now, row, column) ?? nothing, x, top + yaxis._offset + yaxis.d2p(row));
    });
    frame.addEventListener("focusout", () => { place = null; show(null); });
  }

  addEventListener("scroll", () => show(null), { passive: true });

  return { bytes, unpacked, cells, watch };
})();
