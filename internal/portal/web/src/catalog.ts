// A button beside each text that is there to be copied.
for (const box of document.querySelectorAll<HTMLElement>(".copy")) {
  const text = box.querySelector("pre")?.textContent;
  if (!text || !navigator.clipboard) continue;
  const button = document.createElement("button");
  button.className = "quiet";
  button.type = "button";
  button.textContent = "Copy";
  const said = document.createElement("span");
  said.className = "hidden";
  said.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = said.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  box.prepend(button, said);
}
