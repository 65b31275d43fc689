// Reports of fault scenarios: what `trio-msg chaos` has written.

import { get } from "./api.js";
import { h } from "./dom.js";
import { number } from "./format.js";
import { code, empty } from "./parts.js";

const FIRST = /^report\.(html|svg)$|\.html$/;

export const reports = {
  load: () => get("api/reports"),
  draw: (data) => [
    h("div", { class: "bar" }, h("h1", null, "Scenario reports", h("span", { class: "count" }, number(data.reports.length)))),
    data.reports.length
      ? h("div", { class: "reports" }, data.reports.map((report) => h("article", { class: "card pad report", key: report.name },
        h("h2", null, report.name),
        report.files.length
          ? h("ul", null, report.files.map((file) => h("li", { key: file }, h("a", {
            href: `reports/${encodeURIComponent(report.name)}/${encodeURIComponent(file)}`, target: "_blank", rel: "noopener",
            class: FIRST.test(file) ? "button solid" : "button",
          }, file))))
          : h("p", { class: "dim" }, "Nothing in it can be shown here."))))
      : empty(h("b", null, "There are no reports. "), "A fault scenario that fails leaves one in the folder ", code(data.folder || "reports"),
        data.folder && " of the broker's directory", ": ", code("trio-msg chaos scenarios/disk-full.toml --report reports"), "."),
  ],
};
