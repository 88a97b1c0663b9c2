// Says when a repeating task is due while its timetable is being typed. What the server says is text here, never markup.
const PAUSE = 200;

const crontab = document.querySelector("input[data-cq-preview]");
if (crontab) {
    const fields = ["crontab", "every", "timezone"].map((name) => crontab.form.elements[name]);
    const shown = document.createElement("div");
    shown.id = "cq-preview";
    shown.className = "help";
    shown.setAttribute("role", "status");
    crontab.closest(".form-row, .flex-container, div").append(shown);

    const line = (text, className = "") => {
        const element = document.createElement("div");
        element.textContent = text;
        element.className = className;
        return element;
    };

    const local = (run) => `${run.local.slice(0, 19).replace("T", " ")} (${run.utc.slice(0, 19).replace("T", " ")} UTC) ${run.note}`;

    const lines = (said) => said.errors
        ? Object.values(said.errors).map((text) => line(text, "errornote"))
        : [line(said.words), ...said.runs.map((run) => line(local(run))), ...said.doubts.map((text) => line(text, "errornote"))];

    let asked = 0;
    const ask = async () => {
        const number = ++asked;
        if (!fields[0].value.trim() && !fields[1].value.trim()) {
            shown.replaceChildren();
            return;
        }
        const query = new URLSearchParams(fields.map((field) => [field.name, field.value]));
        const response = await fetch(`${crontab.dataset.cqPreview}?${query}`, { credentials: "same-origin" });
        const said = response.ok ? await response.json() : { errors: { page: `The server answered ${response.status}.` } };
        if (number === asked) {
            shown.replaceChildren(...lines(said));
        }
    };

    let waiting;
    for (const field of fields) {
        field.addEventListener("input", () => {
            clearTimeout(waiting);
            waiting = setTimeout(ask, PAUSE);
        });
    }
    ask();
}
