/** 64-bit fields as JS numbers: every count in the formats stays below 2^53, which the readers check at the border. */
import { DvceError } from '../base/index.ts';

export function writeU64(target: Buffer, value: number, at: number): void {
  target.writeUInt32LE(value % 0x1_0000_0000, at);
  target.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

export function readU64(source: Buffer, at: number): number {
  const high = source.readUInt32LE(at + 4);
  if (high >= 0x20_0000)
    throw new DvceError('INTERNAL', { reason: 'a 64-bit field holds 2^53 or more' });
  return high * 0x1_0000_0000 + source.readUInt32LE(at);
}

export function writeUuid(target: Buffer, uuid: string, at: number): void {
  target.write(uuid.replaceAll('-', ''), at, 16, 'hex');
}

export function readUuid(source: Buffer, at: number): string {
  const hex = source.toString('hex', at, at + 16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
