// Nodes without HTML text: whatever a title holds stays text, and a page's policy may forbid all else (Trusted Types).

const SVG = "http://www.w3.org/2000/svg";

/** Make an element with attributes, of which `text`, `class` and on… are what they say, and children. */
export function h(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else set(node, key, value);
  }
  node.append(...children);
  return node;
}

/** Set an attribute where it differs, so that nothing is announced or laid out anew; null and false remove it. */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** Set a node's text where it differs. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const ICONS = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  lock: "M7 11V8a5 5 0 0 1 10 0v3M6 11h12v9H6z",
  circle: "M12 4a8 8 0 1 1 0 16a8 8 0 1 1 0-16z",
  chevron: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
};

/** An icon that says nothing to a screen reader: the words beside it do. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  set(svg, "viewBox", "0 0 24 24");
  set(svg, "aria-hidden", "true");
  set(svg, "class", `icon ${name}`);
  const path = document.createElementNS(SVG, "path");
  set(path, "d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A bar that is a progressbar; the element's _bar() makes it show counts. */
export function bar() {
  const range = { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 };
  return h("div", { class: "bar", part: "bar", ...range }, h("i"));
}

/** The ring: its arc is as long as the style's --value, in percent. */
export function ring() {
  const svg = document.createElementNS(SVG, "svg");
  set(svg, "viewBox", "0 0 100 100");
  set(svg, "aria-hidden", "true");
  for (const name of ["track", "fill"]) {
    const circle = document.createElementNS(SVG, "circle");
    for (const [key, value] of Object.entries({ cx: 50, cy: 50, r: 43, pathLength: 100, class: name }))
      set(circle, key, value);
    svg.append(circle);
  }
  return svg;
}

/** A style sheet to adopt: unlike a <style> element, a strict policy has nothing against it. */
export function sheet(text) {
  const made = new CSSStyleSheet();
  made.replaceSync(text);
  return made;
}
