// limit: 1500 s
/** What the system tests do a few times, many times; and the negative control of the test of power loss. */
Object.assign(process.env, {
  DVCE_KILL_ROUNDS: '20',
  DVCE_START_ROUNDS: '40',
  DVCE_POWER_CUTS: '6',
  DVCE_POWER_CONTROL: '1',
});
await import('../system/blockd.test.ts');
await import('../system/power-loss.test.ts');
