"use strict";
// Sorts and searches the tables. Without it they are in their first order, and everything else is as it is.
(() => {
  const cellOf = (row, column) => row.cells[column];
  const numberOf = (cell) => (cell.dataset.sort === undefined ? NaN : Number(cell.dataset.sort));
  const names = new Intl.Collator(undefined, { numeric: true });

  function sort(table, column, header) {
    const down = header.getAttribute("aria-sort") === (column ? "descending" : "ascending");
    const direction = column === 0 ? (down ? -1 : 1) : down ? 1 : -1;
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const keyed = [...table.tBodies[0].rows].map((row) => [row, cellOf(row, column)]);
    const compare = column === 0
      ? (a, b) => names.compare(a.textContent, b.textContent)
      : (a, b) => numberOf(a) - numberOf(b);
    keyed.sort((a, b) => direction * compare(a[1], b[1]));
    table.tBodies[0].append(...keyed.map(([row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, column, header));
      header.append(button);
    });
  }

  for (const input of document.querySelectorAll("input[data-table]")) {
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    const words = new Map(rows.map((row) => [row, cellOf(row, 0).textContent.toLowerCase()]));
    const output = document.querySelector(`output[data-found="${input.dataset.table}"]`);
    const search = () => {
      const wanted = input.value.trim().toLowerCase();
      let found = 0;
      for (const row of rows) {
        const fits = words.get(row).includes(wanted);
        row.hidden = !fits;
        found += fits;
      }
      output.value = wanted ? `${found} of ${rows.length}` : "";
    };
    input.addEventListener("input", search);
    input.closest("[hidden]").hidden = false;
    if (input.value) search();
  }

  // what is folded on the screen but matters on paper
  const folded = [...document.querySelectorAll("details[data-print]:not([open])")];
  addEventListener("beforeprint", () => folded.forEach((part) => { part.open = true; }));
  addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
})();
