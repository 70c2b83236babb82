import { AuthError } from "next-auth";
import { redirect } from "next/navigation";
import { signIn } from "@/auth";
import { hashPassword } from "@/lib/password";
import { prisma } from "@/lib/prisma";

async function enter(form: FormData) {
  "use server";
  try {
    await signIn("credentials", { email: form.get("email"), password: form.get("password"), redirectTo: "/" });
  } catch (error) {
    if (error instanceof AuthError) redirect("/sign-in?error=The+address+or+the+password+is+wrong.");
    throw error; // a redirect to the page after the sign-in
  }
}

async function join(form: FormData) {
  "use server";
  const passwordHash = await hashPassword(String(form.get("password")));
  const user = { email: String(form.get("email")), passwordHash };
  // One statement, so that two sign-ups at the same time do not both succeed.
  const { count } = await prisma.user.createMany({ data: user, skipDuplicates: true });
  if (count === 0) redirect("/sign-in?error=This+address+has+an+account.");
  await enter(form);
}

export default async function SignIn({ searchParams }: { searchParams: Promise<{ error?: string }> }) {
  const { error } = await searchParams;
  return (
    <form>
      <h1>Sign in</h1>
      {error && <p role="alert">{error}</p>}
      <label>
        E-mail <input name="email" type="email" autoComplete="username" required />
      </label>
      <label>
        Password <input name="password" type="password" autoComplete="current-password" minLength={8} required />
      </label>
      <button formAction={enter}>Sign in</button>
      <button formAction={join}>Sign up</button>
    </form>
  );
}
