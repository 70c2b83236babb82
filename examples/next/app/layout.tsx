import type { ReactNode } from "react";
import { auth, signOut } from "@/auth";

export const metadata = { title: "Learn to program" };

export default async function Layout({ children }: { children: ReactNode }) {
  const session = await auth();

  async function leave() {
    "use server";
    await signOut({ redirectTo: "/sign-in" });
  }

  return (
    <html lang="en">
      <body>
        <script type="module" async src="/progress-ui/progress-ui.js" />
        {session && (
          <form action={leave}>
            {session.user?.email} <button>Sign out</button>
          </form>
        )}
        <main>{children}</main>
      </body>
    </html>
  );
}
