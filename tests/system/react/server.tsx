import { renderToString } from "react-dom/server";
import { App, type Settings } from "./app";

// The arguments are those of this script's process.
declare const process: { argv: string[]; stdout: { write: (text: string) => void } };

process.stdout.write(renderToString(<App {...(JSON.parse(process.argv[2]!) as Settings)} />));
