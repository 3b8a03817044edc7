// Building the page. Text from outside becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`) and children; null and false children are left out. */
export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for pictures. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [part, given] of Object.entries(value)) element.style[part] = given;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Say something to those who listen to the page. */
export function speak(text) {
  const spoken = document.getElementById("spoken");
  spoken.textContent = "";
  // A text that is the same as before is not read again.
  requestAnimationFrame(() => { spoken.textContent = text; });
}

/** Seconds as M:SS or H:MM:SS. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

/** The spans of a row on the player's clock: one, or several where slots join what is not adjacent. */
export function span(row, start) {
  return (row.spans ?? [row]).map((part) => `${clock(part.start_s - start)} to ${clock(part.end_s - start)}`).join(", ");
}

/** Whether a row covers a time. */
export function covers(row, time) {
  return (row.spans ?? [row]).some((part) => part.start_s <= time && time < part.end_s);
}

/** Bytes with a unit. */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let place = 0;
  while (count >= 1000 && place < units.length - 1) { count /= 1000; place += 1; }
  return `${place ? count.toFixed(1) : count} ${units[place]}`;
}

/** A number as people of here write it. */
export function number(value, digits = 0) {
  return value.toLocaleString(undefined, { maximumFractionDigits: digits });
}

/** A moment of time as people of here write it. */
export function when(text) {
  return new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** "1 video", "2 videos". */
export function counted(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}
