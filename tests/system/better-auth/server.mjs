// A site with Better Auth and its plugin for tokens, on https. Prints its own URL when it answers.
// CERTIFICATE is a PEM file with the certificate and its private key.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";

const pem = readFileSync(process.env.CERTIFICATE);
const server = createServer({ key: pem, cert: pem });
server.listen(0, "127.0.0.1", () => {
  const baseURL = `https://127.0.0.1:${server.address().port}`;
  const auth = betterAuth({
    baseURL,
    secret: "a secret of the tests that is longer than 32 bytes",
    database: memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] }),
    emailAndPassword: { enabled: true },
    plugins: [jwt()],
    telemetry: { enabled: false },
  });
  server.on("request", toNodeHandler(auth));
  console.log(baseURL);
});
