/** One column of a table. */
export interface Column<Row> {
  readonly title: string;
  /** For people; the functions of format.ts write the same for programs when a program reads. */
  readonly value: (row: Row) => string;
  readonly right?: boolean;
  /** Shown with `-o wide` only. */
  readonly wide?: boolean;
}
