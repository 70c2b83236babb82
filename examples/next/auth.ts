import NextAuth from "next-auth";
import Credentials from "next-auth/providers/credentials";
import { isPassword } from "./lib/password";
import { prisma } from "./lib/prisma";

export const { auth, handlers, signIn, signOut } = NextAuth({
  pages: { signIn: "/sign-in" },
  providers: [
    Credentials({
      credentials: { email: {}, password: {} },
      async authorize({ email, password }) {
        const user = await prisma.user.findUnique({ where: { email: String(email) } });
        if (!user || !(await isPassword(String(password), user.passwordHash))) return null;
        return { id: user.id, email: user.email };
      },
    }),
  ],
  callbacks: {
    // The token's `sub` is the user's id. The service reads it from the session cookie.
    session({ session, token }) {
      session.user.id = token.sub!;
      return session;
    },
  },
});
