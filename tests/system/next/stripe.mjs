// The process of the site loads this file. It sends requests for Stripe's API to the server of the test.
import http from "node:http";
import https from "node:https";
import { syncBuiltinESMExports } from "node:module";

const { request } = https;
https.request = (options, ...rest) =>
  options.host === "api.stripe.com"
    ? http.request({ ...options, host: "127.0.0.1", port: process.env.STRIPE_PORT, agent: undefined }, ...rest)
    : request(options, ...rest);
syncBuiltinESMExports();
