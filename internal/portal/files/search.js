// Search of a catalog that is files: no server is asked, and what is found stands in
// the page already.
const entries = JSON.parse(document.getElementById('entries').textContent);
const input = document.getElementById('search');
const found = document.getElementById('found');
const hits = document.getElementById('hits');

function element(name, text, attributes = {}) {
  const e = document.createElement(name);
  e.textContent = text;
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  return e;
}

function score(entry, words) {
  let sum = 0;
  for (const word of words) {
    if (!entry.text.includes(word)) return 0;
    sum += entry.name.toLowerCase().includes(word) ? 3 : entry.columns.some((c) => c.name.includes(word)) ? 2 : 1;
  }
  return sum;
}

function shown(entry, words) {
  const item = document.createElement('li');
  const head = document.createElement('p');
  head.append(element('a', entry.name, { href: entry.href }), ' ', element('span', entry.type, { class: 'badge' }), ' ', element('small', entry.of));
  item.append(head, element('p', entry.purpose, { class: 'faint' }));
  const columns = entry.columns.filter((c) => words.some((word) => c.name.includes(word)));
  if (columns.length > 0) {
    const list = element('ul', '', { class: 'found', 'aria-label': 'Columns' });
    for (const c of columns) {
      const one = document.createElement('li');
      const link = element('a', '', { href: c.href });
      link.append(element('code', c.name));
      one.append(link, ' ', element('small', c.purpose));
      list.append(one);
    }
    item.append(list);
  }
  return item;
}

function search() {
  const words = input.value.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const best = words.length === 0 ? [] : entries.map((entry) => [score(entry, words), entry]).filter(([n]) => n > 0).sort((a, b) => b[0] - a[0]);
  hits.querySelector('ol').replaceChildren(...best.map(([, entry]) => shown(entry, words)));
  hits.hidden = best.length === 0;
  found.textContent = words.length === 0 ? '' : best.length === 0 ? 'Nothing has all these words.' : `${best.length} found`;
  for (const product of document.querySelectorAll('.product')) product.hidden = words.length > 0;
}

document.querySelector('.search').hidden = false;
input.addEventListener('input', search);
search(); // a browser that goes back has kept the words
