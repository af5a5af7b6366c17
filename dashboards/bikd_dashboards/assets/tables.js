"use strict";
// Tables that a person can sort and filter. The report and the app use this file alike.
(() => {
  const NONE = "\u2013";

  // A cell's number, else its text; what is missing comes last either way.
  function value(row, column) {
    const cell = row.cells[column];
    const first = cell.querySelector(".range") ? cell.firstElementChild : cell;
    const text = first.textContent.trim();
    const number = Number.parseFloat(text.replace("\u2212", "-").replaceAll(",", ""));
    return { text, number, missing: text === "" || text === NONE };
  }

  function order(a, b, sign) {
    if (a.missing || b.missing) return a.missing - b.missing;
    const both = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    const apart = both ? a.number - b.number : a.text.localeCompare(b.text);
    return sign * apart;
  }

  function arrange(head, down) {
    const table = head.closest("table");
    table.querySelectorAll("thead th").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const keyed = rows.map((row) => [value(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => order(a, b, down ? -1 : 1));
    if (keyed.some(([, row], i) => row !== rows[i])) {
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    }
  }

  function sort(head) {
    const numbers = head.classList.contains("num");
    const was = head.getAttribute("aria-sort");
    const down = was ? was === "ascending" : numbers; // numbers begin with the largest
    arrange(head, down);
    remember(head.closest("table"), { title: titleOf(head), down });
  }

  function filter(input) {
    const wanted = input.value.toLowerCase();
    for (const row of input.parentElement.querySelectorAll("tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  }

  // The app draws its tables anew while a sweep runs: what a person chose is done again.
  const chosen = new Map();
  const titleOf = (head) => head.querySelector("button.sort")?.textContent;

  function place(table) {
    if (!table.closest("#page, #opened")) return null; // the report draws each table once
    return `${location.pathname} ${table.closest("[aria-label]").getAttribute("aria-label")}`;
  }

  function remember(table, choice) {
    const at = place(table);
    if (at === null) return;
    chosen.set(at, { ...chosen.get(at), ...choice });
    drawn.observe(document.querySelector("main"), {
      childList: true, subtree: true, characterData: true,
    });
  }

  function again() {
    for (const table of document.querySelectorAll("#page table, #opened table")) {
      const { title, down, filtered } = chosen.get(place(table)) ?? {};
      const head = [...table.querySelectorAll("thead th")].find((th) => titleOf(th) === title);
      if (title && head) arrange(head, down);
      const input = table.closest(".scroll").parentElement.querySelector("input.filter");
      if (filtered && input) filter(input);
    }
  }

  let waiting = 0;
  const drawn = new MutationObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(again);
  });

  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("button.sort");
    if (button) sort(button.closest("th"));
  });

  document.addEventListener("input", ({ target }) => {
    if (!target.matches?.("input.filter")) return;
    filter(target);
    const table = target.parentElement.querySelector("table");
    if (table) remember(table, { filtered: true });
  });
})();
