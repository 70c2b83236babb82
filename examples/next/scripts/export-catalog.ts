// Prints the catalog file of the service.
import { prisma } from "../lib/prisma";

async function exportCatalog() {
  const modules = await prisma.module.findMany({
    orderBy: { position: "asc" },
    include: { lessons: { orderBy: { position: "asc" } } },
  });
  const catalog = {
    title: "Learn to program",
    modules: modules.map((module) => ({
      id: module.progressId,
      title: module.title,
      lessons: module.lessons.map((lesson) => ({
        id: lesson.progressId,
        title: lesson.title,
        published: lesson.published,
        isFree: lesson.free,
      })),
    })),
  };
  console.log(JSON.stringify(catalog, null, 2));
  await prisma.$disconnect();
}

// Not `await`: outside a function it needs `"type": "module"` in package.json, which many sites do not have.
exportCatalog().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
