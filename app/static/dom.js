// Makes nodes without HTML text. So a title always stays text, and a page may require Trusted Types.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element with attributes and children. `text` is its text, and on… is a listener. */
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

/**
 * Set an attribute if it has another value. An equal value would be announced or laid out again. null, undefined and false
 * remove the attribute.
 */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** Set the text of a node if it has another text. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const ICONS = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  lock: "M7 11V8a5 5 0 0 1 10 0v3M6 11h12v9H6z",
  circle: "M12 4a8 8 0 1 1 0 16a8 8 0 1 1 0-16z",
  chevron: "M9 6l6 6-6 6",
  clock: "M12 4a8 8 0 1 1 0 16a8 8 0 1 1 0-16zM12 8v4l3 2",
  close: "M6 6l12 12M18 6L6 18",
};

/** Make an icon. Screen readers skip it, because the words beside it say the same. */
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

/** Make a progressbar. The element's _bar() makes it show counts. */
export function bar() {
  const range = { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 };
  return h("div", { class: "bar", part: "bar", ...range }, h("i"));
}

/** Make the ring. The style's --value is the length of its arc, in percent. */
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

/** Make a style sheet to adopt. A strict Content-Security-Policy forbids <style> elements, and allows this. */
export function sheet(text) {
  const made = new CSSStyleSheet();
  made.replaceSync(text);
  return made;
}
