// Small parts that several places use.

/** A row of radio buttons that looks like one switch: `fill([[value, label]])`, `set(value)`. */
export function segments(box, name, chosen) {
  const radios = new Map();
  return {
    fill(options) {
      radios.clear();
      box.replaceChildren(
        ...options.map(([value, text]) => {
          const label = document.createElement("label"), radio = document.createElement("input");
          Object.assign(radio, { type: "radio", name, value });
          radio.addEventListener("change", () => chosen(value));
          label.append(radio, text);
          radios.set(value, radio);
          return label;
        }),
      );
    },
    set(value) {
      const radio = radios.get(value);
      if (radio && !radio.checked) radio.checked = true;
    },
    enable(isOn) {
      radios.forEach((radio) => (radio.disabled = !isOn));
    },
  };
}

/** The options of a select, as [[value, label]]. */
export function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}
