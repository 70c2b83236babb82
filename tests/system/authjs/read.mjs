// Reads session cookies with the libraries themselves. It reads one JSON document from each line, and prints a line with
// the session's claims, or null if the library does not accept the session.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { getToken as readV5 } from "@auth/core/jwt";

const require = createRequire(import.meta.url);
const { getToken: readV4 } = require("next-auth/jwt");
const { parse } = require("cookie");

const logger = { debug() {}, warn() {}, error() {} };

for await (const line of createInterface({ input: process.stdin })) {
  const { version, name, secret, header } = JSON.parse(line);
  const claims =
    version === 5
      ? await readV5({ req: { headers: { cookie: header } }, cookieName: name, salt: name, secret, logger })
      : await readV4({ req: { headers: {}, cookies: parse(header) }, cookieName: name, secret, logger });
  console.log(JSON.stringify(claims));
}
