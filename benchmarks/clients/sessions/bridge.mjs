// `node bridge.mjs PACKAGE_JSON VERSION`: a TypeScript client, driven by JSON lines on stdin.
// VERSION 1 is @modelcontextprotocol/sdk, 2 is @modelcontextprotocol/client.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [manifest, version] = process.argv.slice(2);
const require = createRequire(manifest);
const second = version === "2";

function library() {
  if (second) {
    return {
      ...require("@modelcontextprotocol/client"),
      ...require("@modelcontextprotocol/client/stdio"),
    };
  }
  return {
    ...require("@modelcontextprotocol/sdk/client/index.js"),
    ...require("@modelcontextprotocol/sdk/client/stdio.js"),
    ...require("@modelcontextprotocol/sdk/client/streamableHttp.js"),
  };
}

const { Client, StdioClientTransport, StreamableHTTPClientTransport } = library();
const calls = new Map(); // of each call under way, by id: what aborts it
let client;
let timeout; // milliseconds of one request

async function connect({ server, limit_s: limitS }) {
  timeout = limitS * 1000;
  const transport = server.url
    ? new StreamableHTTPClientTransport(new URL(server.url), {
        requestInit: { headers: server.headers },
      })
    : new StdioClientTransport({ ...server, stderr: "ignore" });
  // Version 2 offers both eras, so that the server's newest revision is spoken.
  const options = second ? { versionNegotiation: { mode: "auto" } } : {};
  client = new Client({ name: "sessions", version: "1" }, options);
  await client.connect(transport);
}

async function call(id, { name, arguments: given }) {
  const abort = new AbortController();
  calls.set(id, abort);
  const options = { timeout, signal: abort.signal };
  const request = { name, arguments: given };
  const result = second
    ? await client.callTool(request, options)
    : await client.callTool(request, undefined, options);
  const blocks = result.content.filter((block) => block.type === "text");
  return blocks.map((block) => block.text).join("\n");
}

const operations = {
  connect: (_id, message) => connect(message),
  names: async () => (await client.listTools()).tools.map((tool) => tool.name),
  call,
  cancel: async (_id, { call: which }) => calls.get(which)?.abort("cancelled"),
  close: () => client.close(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, op, ...message } = JSON.parse(line);
  operations[op](id, message).then(
    (value) => answer({ id, value: value ?? null }),
    (error) => answer({ id, error: `${error?.name ?? "Error"}: ${error?.message ?? error}` }),
  );
}
process.exit(0);

function answer(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}
