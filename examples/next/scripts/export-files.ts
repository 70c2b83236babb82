// Prints the catalog file of the service, for lessons that are files: content/<module>/<lesson>.md, in the order of their
// names. The front matter of each lesson, and of the index.md of each module, has a title and a progressId.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";

const content = process.argv[2] ?? "content";

function frontMatter(...path: string[]) {
  const file = join(content, ...path);
  const found = /^---\r?\n(.*?)\r?\n---\r?$/ms.exec(readFileSync(file, "utf8"));
  const fields = found && parse(found[1]);
  if (!fields?.progressId || !fields.title) throw new Error(`${file}: its front matter has no progressId or no title`);
  return fields;
}

function lessonsOf(module: string) {
  const files = readdirSync(join(content, module)).filter((name) => /\.mdx?$/.test(name) && name !== "index.md");
  return files.sort().map((file) => {
    const { progressId, title, published = true, free = false } = frontMatter(module, file);
    return { id: progressId, title, published, isFree: free };
  });
}

const folders = readdirSync(content, { withFileTypes: true }).filter((entry) => entry.isDirectory());
const modules = folders.map((folder) => folder.name).sort();
const catalog = {
  modules: modules.map((module) => {
    const { progressId, title } = frontMatter(module, "index.md");
    return { id: progressId, title, lessons: lessonsOf(module) };
  }),
};
console.log(JSON.stringify(catalog, null, 2));
