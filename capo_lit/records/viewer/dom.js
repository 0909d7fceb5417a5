// Making elements. What models wrote gets into the page here alone: as text, never as HTML.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "vars") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const byId = (id) => document.getElementById(id);

const MINUS = "\u2212";
const NONE = "\u2013";

function number(value, digits = 3, more = {}) {
  if (value === null || value === undefined) return NONE;
  return value
    .toLocaleString("en", { maximumFractionDigits: digits, signDisplay: "negative", ...more })
    .replace("-", MINUS);
}

const signed = (value, digits) => number(value, digits, { minimumFractionDigits: digits, signDisplay: "exceptZero" });

const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

// Round numbers that divide a range into about `count` parts.
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const marks = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) marks.push(at * step);
  return marks;
}
