// How the page reaches the server: through the host of an MCP App (JSON-RPC over postMessage,
// MCP Apps 2026-01-26), or over HTTP to the server that sent it (MCP 2026-07-28).
const APP = { name: "lingshu lab page", version: "1" };
const UI = "io.modelcontextprotocol/ui";
const MIME = "text/html;profile=mcp-app";
const MCP = "2026-07-28";
const KEY = "lingshu-token";
const ENDED = "The server of this page has ended: run `lingshu browse` again";

// Calls that begin nothing may be made again when a busy machine has not answered in time.
const READING = new Set(["list_experiments", "get_experiment", "compare_experiments"]);
const LATE = /ask again|asks again|call again when|got no answer/;

async function patiently(ask) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await ask();
    } catch (error) {
      if (attempt === 3 || !LATE.test(error.message)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

class HostBridge {
  constructor(on) {
    this.on = on;
    this.pending = new Map();
    this.next = 1;
    window.addEventListener("message", (event) => {
      if (event.source === window.parent) this.receive(event.data);
    });
  }

  async start() {
    const answer = await this.request("ui/initialize", {
      appInfo: APP, protocolVersion: "2026-01-26",
      appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
    });
    this.on.context?.(answer.hostContext ?? {});
    this.notify("ui/notifications/initialized", {});
    new ResizeObserver(() => this.notify("ui/notifications/size-changed", {
      width: document.documentElement.scrollWidth,
      height: document.body.scrollHeight,
    })).observe(document.body);
  }

  send(message) {
    // The host's origin is not known here; tokens and secrets are never sent.
    window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  notify(method, params) { this.send({ method, params }); }

  request(method, params) {
    const id = this.next++;
    this.send({ id, method, params });
    return new Promise((resolve, reject) => this.pending.set(id, { resolve, reject }));
  }

  receive(message) {
    if (message?.jsonrpc !== "2.0") return;
    if (message.method === undefined) {
      const waiting = this.pending.get(message.id);
      this.pending.delete(message.id);
      if (message.error) waiting?.reject(new Error(message.error.message));
      else waiting?.resolve(message.result);
    } else if (message.id !== undefined) {
      const known = ["ping", "ui/resource-teardown"].includes(message.method);
      const error = { code: -32601, message: "Method not found" };
      this.send(known ? { id: message.id, result: {} } : { id: message.id, error });
    } else {
      const name = message.method.replace("ui/notifications/", "");
      if (name === "host-context-changed") this.on.context?.(message.params);
      if (name === "tool-input") this.on.input?.(message.params.arguments ?? {});
      if (name === "tool-result") this.on.result?.(message.params);
      if (name === "tool-cancelled") this.on.cancelled?.(message.params);
    }
  }
}

class HttpBridge {
  constructor() {
    this.next = 1;
    this.start_id = null;
  }

  async start() {
    // The fragment is `TOKEN` or `TOKEN/ID`; it is taken out of the address at once.
    const [token, id] = location.hash.slice(1).split("/");
    if (/^[\w-]{40,}$/.test(token)) {
      sessionStorage.setItem(KEY, token);
      this.start_id = id ?? null;
      history.replaceState(null, "", location.pathname);
    }
    this.token = sessionStorage.getItem(KEY);
    if (!this.token) throw new Error("The address has no token: open the one that `lingshu browse` printed");
    // Somebody who reads the page uses it, though nothing is clicked.
    setInterval(() => {
      if (document.visibilityState === "visible") this.request("server/discover", {}).catch(() => {});
    }, 240_000);
  }

  async request(method, params) {
    const id = this.next++;
    const meta = {
      "io.modelcontextprotocol/protocolVersion": MCP,
      "io.modelcontextprotocol/clientInfo": APP,
      "io.modelcontextprotocol/clientCapabilities": { extensions: { [UI]: { mimeTypes: [MIME] } } },
    };
    const name = params.name ?? params.uri;
    let response;
    try {
      response = await fetch("/mcp", {
        method: "POST",
        headers: {
          authorization: `Bearer ${this.token}`, "content-type": "application/json",
          accept: "application/json, text/event-stream", "mcp-protocol-version": MCP,
          "mcp-method": method, ...(name ? { "mcp-name": name } : {}),
        },
        body: JSON.stringify({ jsonrpc: "2.0", id, method, params: { ...params, _meta: meta } }),
      });
    } catch {
      throw new Error(ENDED);
    }
    let text = await response.text();
    if ((response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
      text = text.split("\n").filter((line) => line.startsWith("data: ")).at(-1)?.slice(6) ?? "";
    }
    let message;
    try { message = JSON.parse(text); } catch { throw new Error(`The server answered ${response.status}: ${text.slice(0, 200)}`); }
    if (message.error) throw new Error(message.error.message);
    return message.result;
  }
}

export class Bridge {
  constructor(on) {
    this.embedded = window.parent !== window;
    this.transport = this.embedded ? new HostBridge(on) : new HttpBridge();
  }

  async start() {
    await this.transport.start();
    return this.transport.start_id ?? null;
  }

  // The structured result of a tool; a refusal is an Error with the text that says what to do.
  async call(name, args) {
    const once = async () => {
      const result = await this.transport.request("tools/call", { name, arguments: args });
      if (result.isError) throw new Error(result.content?.[0]?.text ?? `${name} was refused`);
      return result.structuredContent;
    };
    return READING.has(name) ? patiently(once) : once();
  }

  async figure(id, kind, other) {
    const query = other ? `?other=${encodeURIComponent(other)}` : "";
    const uri = `figures://${encodeURIComponent(id)}/${kind}${query}`;
    return patiently(async () => {
      const result = await this.transport.request("resources/read", { uri });
      return JSON.parse(result.contents[0].text);
    });
  }

  // A figure that a child process computes is asked for until it is there.
  async figureWhenReady(id, kind) {
    for (let attempt = 0; ; attempt++) {
      const figure = await this.figure(id, kind);
      if (figure.status === "succeeded") return figure;
      if (attempt === 120) throw new Error("The figure is still being computed: open this tab again later");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}
