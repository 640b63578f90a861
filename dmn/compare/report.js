"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const find = document.getElementById("find");
const kinds = all("input[name=kind]");
const entries = all("template[data-name]");
const dialog = document.getElementById("details");

function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = new Set(kinds.filter((box) => box.checked).map((box) => box.value));
  const shown = entries.map(({ dataset }) => {
    const name = dataset.name.toLowerCase();
    return wanted.has(dataset.kind) && words.every((word) => name.includes(word));
  });
  for (const part of all("[data-entry]")) part.hidden = !shown[part.dataset.entry];
  const count = shown.filter(Boolean).length;
  document.getElementById("shown").value = count
    ? `${count} of ${entries.length} shown`
    : "nothing matches this filter";
}

function valueOf(row, column) {
  const text = row.cells[column].dataset.value;
  return row.cells[column].tagName === "TH" ? text : Number.parseFloat(text);
}

function compare(first, second) {
  const missing = Number.isNaN(first) - Number.isNaN(second);
  if (missing) return { order: missing, fixed: true };
  return { order: typeof first === "string" ? first.localeCompare(second) : first - second };
}

function sort(header) {
  const { first } = header.dataset;
  const other = { ascending: "descending", descending: "ascending" };
  const direction = header.ariaSort === first ? other[first] : first;
  for (const sibling of header.parentNode.cells) sibling.removeAttribute("aria-sort");
  header.ariaSort = direction;
  const body = header.closest("table").tBodies[0];
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((one, two) => {
    const { order, fixed } = compare(
      valueOf(one, header.cellIndex),
      valueOf(two, header.cellIndex),
    );
    return fixed ? order : sign * order; // what has no score stays last
  });
  body.append(...rows);
}

function open({ dataset }) {
  const body = dialog.querySelector("div");
  body.replaceChildren(entries[dataset.open].content.cloneNode(true));
  for (const row of all("tr[data-metric]", body)) {
    row.classList.toggle("chosen", row.dataset.metric === dataset.metric);
  }
  dialog.showModal();
  dialog.scrollTop = 0;
  const chosen = body.querySelector("tr.chosen");
  if (chosen) chosen.scrollIntoView({ block: "nearest" });
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (target === dialog || button?.classList.contains("close")) dialog.close();
  else if (button?.dataset.open) open(button);
  else if (button?.closest("table.sortable thead")) sort(button.closest("th"));
});
document.querySelector("form.filter").addEventListener("input", filter);
document.querySelector("form.filter").addEventListener("submit", (event) => event.preventDefault());
filter();
