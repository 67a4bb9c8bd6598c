"use strict";
// Click a heading: sort by it, once more to turn the order. Rows without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const falling = head.ariaSort === "none" ? head.dataset.down === "1" : head.ariaSort === "ascending";
    heads.forEach((other) => { other.ariaSort = "none"; });
    head.ariaSort = falling ? "descending" : "ascending";
    const key = (row) => {
      const cell = row.cells[column];
      return column ? parseFloat(cell.dataset.value) : cell.textContent.trim();
    };
    const absent = (value) => typeof value === "number" && Number.isNaN(value);
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (absent(x) || absent(y)) return absent(x) - absent(y);
      return (x < y ? -1 : x > y ? 1 : 0) * (falling ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  }));
}

// Click a picture: see it large; a click or Escape closes it.
const large = document.getElementById("large");
for (const picture of document.querySelectorAll("img.grows")) {
  const grow = () => {
    const shown = large.querySelector("img");
    shown.src = picture.src;
    shown.alt = picture.alt;
    large.showModal();
  };
  picture.addEventListener("click", grow);
  picture.addEventListener("keydown", (event) => { if (event.key === "Enter") grow(); });
}
