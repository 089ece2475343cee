// limit: 1500 s
/** What the system tests do a few times, many times. */
Object.assign(process.env, { DVCE_KILL_ROUNDS: '20', DVCE_START_ROUNDS: '40' });
await import('../system/blockd.test.ts');
