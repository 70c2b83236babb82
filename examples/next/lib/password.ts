import { randomBytes, scrypt as scryptWithCallback, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";

const scrypt = promisify<string, Buffer, number, Buffer>(scryptWithCallback);
const HASH_BYTES = 64;

/** `salt:hash`, both in hexadecimal digits. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(16);
  return `${salt.toString("hex")}:${(await scrypt(password, salt, HASH_BYTES)).toString("hex")}`;
}

export async function isPassword(password: string, stored: string): Promise<boolean> {
  const [salt, hash] = stored.split(":").map((part) => Buffer.from(part, "hex"));
  return timingSafeEqual(await scrypt(password, salt, HASH_BYTES), hash);
}
