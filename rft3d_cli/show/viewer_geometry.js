// Points are [x, y, z] in metres. A lens is {m, k}: m, three rows of four numbers, takes the display's coordinates to
// a camera's (x right, y down, z ahead); k, three rows of three, takes those to pixels.

const NEAR = 0.05; // metres before a camera where everything is cut off

const add = (a, b, s = 1) => [a[0] + b[0] * s, a[1] + b[1] * s, a[2] + b[2] * s];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const between = (a, b, t) => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];

function mean(points) {
  const sum = points.reduce((a, b) => add(a, b), [0, 0, 0]);
  return sum.map((value) => value / points.length);
}

/** A point in a lens's camera. */
const seen = (lens, p) => lens.m.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2] + row[3]);

/** Pixels of a point that lies before the camera, in its coordinates. */
const pixel = (lens, e) => [
  (lens.k[0][0] * e[0] + lens.k[0][1] * e[1]) / e[2] + lens.k[0][2],
  (lens.k[1][1] * e[1]) / e[2] + lens.k[1][2],
];

/** Where the camera of a lens stands: the point that it takes to the origin. */
function eyeOf(lens) {
  const shift = lens.m.map((row) => row[3]);
  return [0, 1, 2].map((axis) => -lens.m.reduce((sum, row, at) => sum + row[axis] * shift[at], 0));
}

/** The part of a line before the near plane as two pixels and its mean depth, or null. */
function lineSeen(lens, from, to) {
  let [a, b] = [seen(lens, from), seen(lens, to)];
  if (a[2] <= NEAR && b[2] <= NEAR) return null;
  if (a[2] <= NEAR) a = between(b, a, (b[2] - NEAR) / (b[2] - a[2]));
  else if (b[2] <= NEAR) b = between(a, b, (a[2] - NEAR) / (a[2] - b[2]));
  return { ends: [pixel(lens, a), pixel(lens, b)], depth: (a[2] + b[2]) / 2 };
}

/** The part of a polygon before the near plane as pixels and its mean depth, or null. */
function polygonSeen(lens, points) {
  const eyes = points.map((p) => seen(lens, p));
  const kept = [];
  eyes.forEach((a, at) => {
    const b = eyes[(at + 1) % eyes.length];
    if (a[2] > NEAR) kept.push(a);
    if (a[2] > NEAR !== b[2] > NEAR) kept.push(between(a, b, (a[2] - NEAR) / (a[2] - b[2])));
  });
  if (kept.length < 3) return null;
  return { points: kept.map((e) => pixel(lens, e)), depth: mean(kept)[2] };
}

/** Whether a point lies in a polygon. */
function inside([x, y], polygon) {
  let odd = false;
  polygon.forEach(([ax, ay], at) => {
    const [bx, by] = polygon[(at + 1) % polygon.length];
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) odd = !odd;
  });
  return odd;
}

function area(polygon) {
  let twice = 0;
  polygon.forEach(([ax, ay], at) => {
    const [bx, by] = polygon[(at + 1) % polygon.length];
    twice += ax * by - bx * ay;
  });
  return Math.abs(twice) / 2;
}

/** The corners of the convex hull of points of a plane, in order around it. */
function hull(points) {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turns = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
  const half = (order) => {
    const kept = [];
    for (const p of order) {
      while (kept.length > 1 && turns(kept.at(-2), kept.at(-1), p) <= 0) kept.pop();
      kept.push(p);
    }
    return kept.slice(0, -1);
  };
  return [...half(sorted), ...half(sorted.reverse())];
}

/** The rectangle around points: [left, top, right, bottom]. */
function around(points) {
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** The largest of 1, 2, 5, 10 … that is no more than a number. */
function roundBelow(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [5, 2, 1].find((step) => step * power <= value * (1 + 1e-9)) * power;
}

/** The view that turns: its axes from two angles, all looks from a target a distance away. */
function orbitAxes({ azimuth, elevation }) {
  const [sa, ca, se, ce] = [Math.sin(azimuth), Math.cos(azimuth), Math.sin(elevation), Math.cos(elevation)];
  return { right: [-sa, ca, 0], up: [-se * ca, -se * sa, ce], back: [ce * ca, ce * sa, se] };
}

const FOCAL = 2.2; // of the view that turns, in halves of its shorter side

function orbitLens(view, width, height) {
  const { right, up, back } = orbitAxes(view);
  const focal = (FOCAL * Math.min(width, height)) / 2;
  const down = up.map((v) => -v);
  const ahead = back.map((v) => -v);
  return {
    m: [
      [...right, -dot(right, view.target)],
      [...down, -dot(down, view.target)],
      [...ahead, -dot(ahead, view.target) + view.distance],
    ],
    k: [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]],
  };
}

/** A target and a distance from which all points are in sight, the middle of what is seen in the middle. */
function fitted(view, points, width, height) {
  const { right, up, back } = orbitAxes(view);
  const focal = (FOCAL * Math.min(width, height)) / 2;
  const [roomX, roomY] = [0.42 * width, 0.4 * height];
  let target = [0, 1, 2].map((axis) => {
    const along = points.map((p) => p[axis]);
    return (Math.min(...along) + Math.max(...along)) / 2;
  });
  let distance = 1;
  for (let round = 0; round < 8; round += 1) {
    const from = points.map((p) => add(p, target, -1)).map((p) => [dot(p, right), dot(p, up), dot(p, back)]);
    distance = Math.max(
      0.02, ...from.map(([x, y, z]) => z + Math.max((Math.abs(x) * focal) / roomX, (Math.abs(y) * focal) / roomY)),
    );
    const flat = from.map(([x, y, z]) => [x / (distance - z), y / (distance - z)]);
    const [left, low, far, high] = around(flat);
    target = add(add(target, right, ((left + far) / 2) * distance), up, ((low + high) / 2) * distance);
  }
  return { ...view, target, distance };
}
