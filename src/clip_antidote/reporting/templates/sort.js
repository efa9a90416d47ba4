'use strict';
const order = (a, b) => (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b)));
const valueOf = (row, column) => {
  const text = row.cells[column].dataset.v;
  return text === undefined || text === '' ? null : Number.isNaN(Number(text)) ? text : Number(text);
};
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rows = [...body.rows].map(row => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? order(a, b) : order(b, a)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
const openReport = () => {
  const report = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (report && report.tagName === 'DETAILS') report.open = true;
};
addEventListener('hashchange', openReport);
openReport();
