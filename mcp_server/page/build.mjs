// Builds ../lingshu_mcp/lab_page/lab.html from src: one file, with the hashes of its script and its
// style sheet as its content security policy. `--check` compares instead of writing.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const OUT = new URL("../lingshu_mcp/lab_page/lab.html", import.meta.url);
const HERE = new URL("./", import.meta.url);
const LICENCE = "/*! d3-scale and its parts: Copyright 2010-2023 Mike Bostock, ISC licence */";

const read = (name) => readFileSync(new URL(name, HERE), "utf8");
const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

async function bundle(entry) {
  const result = await build({
    entryPoints: [new URL(entry, HERE).pathname],
    bundle: true, minify: true, write: false, format: "iife", target: "es2022",
    charset: "utf8", legalComments: "none",
  });
  return result.outputFiles[0].text.trim();
}

// What the file is made of: tests/lab_page/test_built_page.py computes the same.
function sourcesDigest() {
  const names = ["build.mjs", "package-lock.json", "package.json",
    ...readdirSync(new URL("src/", HERE)).map((name) => `src/${name}`)].sort();
  const digest = createHash("sha256");
  for (const name of names) digest.update(`${name}\0${read(name)}\0`);
  return `sha256:${digest.digest("hex")}`;
}

const script = LICENCE + (await bundle("src/main.js")).replaceAll("</script", "<\\/script");
const style = await bundle("src/style.css");
const policy = [
  "default-src 'none'", `script-src ${hash(script)}`, `style-src ${hash(style)}`,
  "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
  "require-trusted-types-for 'script'", "trusted-types 'none'",
].join("; ");
const page = read("src/index.html")
  .replace("{{policy}}", () => policy)
  .replace("{{sources}}", sourcesDigest)
  .replace("{{style}}", () => style)
  .replace("{{script}}", () => script);

if (process.argv.includes("--check")) {
  if (readFileSync(OUT, "utf8") !== page) {
    console.error("lab.html is not what its sources give: run `make page` and commit it");
    process.exit(1);
  }
  console.log("lab.html is current");
} else {
  writeFileSync(OUT, page);
  console.log(`lab.html: ${page.length} characters`);
}
