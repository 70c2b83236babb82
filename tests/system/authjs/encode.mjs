// Session cookies made by the libraries themselves: reads a JSON document a line, prints {name: value} a line.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { encode as encodeV5 } from "@auth/core/jwt";
import { SessionStore } from "./node_modules/@auth/core/lib/utils/cookie.js";

const { encode: encodeV4 } = createRequire(import.meta.url)("next-auth/jwt");

for await (const line of createInterface({ input: process.stdin })) {
  const { version, name, secret, claims, maxAge } = JSON.parse(line);
  const token =
    version === 5
      ? await encodeV5({ token: claims, secret, salt: name, maxAge })
      : await encodeV4({ token: claims, secret, maxAge });
  // What the library does before it sets the cookie: whole, or in chunks.
  const store = new SessionStore({ name, options: {} }, {}, { debug() {} });
  const cookies = store.chunk(token, {});
  console.log(JSON.stringify(Object.fromEntries(cookies.map((cookie) => [cookie.name, cookie.value]))));
}
