/**
 * The fields of a VM document for its life: what happens when it crashes, when the host starts, and what waits for its next
 * start. All may be absent, as in documents of release 0.1.0.
 *
 * | field | meaning |
 * |---|---|
 * | cpuModel | processor: `host`, or a baseline that is the same everywhere |
 * | protected | it cannot be deleted |
 * | autostart, startOrder | started with the host; lower numbers first, stopped in the opposite order |
 * | onCrash | `restart` (up to limits.vmRestartsMax in limits.vmRestartWindowMs) or `hold` |
 * | crashes | when it crashed, newest last; those older than the window are dropped |
 * | held | why it is not started again by itself; a start by somebody clears it |
 * | restartDue | a crash was counted, and the restart that follows has not begun |
 * | pending | hardware that it gets at its next start |
 * | cutFrom | while it is being made as a clone: the volumes that got a snapshot for it |
 * | rollback | id of the VM snapshot that it is being set back to: this document is as it was then, some disks may not be yet |
 */
import Type from 'typebox';

export const lifeFields = {
  cpuModel: Type.Optional(Type.String()),
  protected: Type.Optional(Type.Boolean()),
  autostart: Type.Optional(Type.Boolean()),
  startOrder: Type.Optional(Type.Integer()),
  onCrash: Type.Optional(Type.Union([Type.Literal('restart'), Type.Literal('hold')])),
  crashes: Type.Optional(Type.Array(Type.String())),
  held: Type.Optional(Type.String()),
  restartDue: Type.Optional(Type.Boolean()),
  cutFrom: Type.Optional(Type.Array(Type.String())),
  pending: Type.Optional(
    Type.Object({
      cpus: Type.Optional(Type.Integer({ minimum: 1 })),
      memoryBytes: Type.Optional(Type.Integer({ minimum: 1 })),
    }),
  ),
  rollback: Type.Optional(Type.String()),
};

/**
 * A disk or card that is on its way: `joining` is in the document and may not be in the guest yet, `leaving` may still be in
 * the guest. Both are brought to their end by whoever finds them.
 */
export const transit = Type.Optional(
  Type.Union([Type.Literal('joining'), Type.Literal('leaving')]),
);
