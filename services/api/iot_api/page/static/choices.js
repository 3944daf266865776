// What the plots show: what a person has chosen, and otherwise what the page chooses.

const FIELDS_SHOWN = 6;

/** The choices of a person; `null` lets the page choose. `tagField` may be `undefined`, for one line. */
export class Choices {
  window = 60_000;
  by = null;
  tagField = null;
  fields = new Map();

  /** Return the field that names the lines. */
  wantedTagField(known) {
    return this.tagField === null ? known.tagField() : this.tagField;
  }

  /** Return the fields to plot. `tagField` is the field that names the lines: it has one value in each line. */
  wantedFields(known, mode, tagField) {
    const interesting = new Set(known.interesting(FIELDS_SHOWN));
    const usable = known.numbers.filter((field) => mode === "live" || !field.column);
    return usable.filter((field) => this.fields.get(field) ?? (interesting.has(field) && field !== tagField));
  }
}
