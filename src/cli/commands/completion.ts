/**
 * `dvce completion`: the scripts are small because `dvce __complete` does the work: it knows the command tree and asks the
 * agent for names.
 */
import type { Run } from '../spec.ts';

const scripts: Readonly<Record<string, string>> = {
  bash: `_dvce() {
  local word IFS=$'\\n'
  COMPREPLY=()
  # A colon would be a word break of its own; names have none.
  for word in $(dvce __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
    COMPREPLY+=("$word")
  done
  [ "\${#COMPREPLY[@]}" -eq 0 ] && compopt -o default
}
complete -F _dvce dvce
`,
  zsh: `#compdef dvce
_dvce() {
  local -a found
  found=(\${(f)"$(dvce __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)"})
  if (( \${#found} )); then compadd -U -- $found; else _files; fi
}
compdef _dvce dvce
`,
  fish: `function __dvce
  set -l words (commandline -opc) (commandline -ct)
  dvce __complete $words[2..-1] 2>/dev/null
end
complete -c dvce -a '(__dvce)'
`,
};

export const completion: Run = async ({ output }, given) => {
  output.raw(scripts[given.argument('shell')] ?? '');
};
