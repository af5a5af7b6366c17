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

  function sort(head) {
    const table = head.closest("table");
    const numbers = head.classList.contains("num");
    const was = head.getAttribute("aria-sort");
    const down = was ? was === "ascending" : numbers; // numbers begin with the largest
    table.querySelectorAll("thead th").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = [...table.tBodies[0].rows].map((row) => [value(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => order(a, b, down ? -1 : 1));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }

  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("button.sort");
    if (button) sort(button.closest("th"));
  });

  document.addEventListener("input", ({ target }) => {
    if (!target.matches?.("input.filter")) return;
    const wanted = target.value.toLowerCase();
    for (const row of target.parentElement.querySelectorAll("tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
})();
