"""The command line of EventDB: an interactive shell, one-shot SQL, import, tail, check, stats, run and the demo.

The folder is `shell/` in the source tree and installs as `eventdb_shell`; modules in it import each other relatively.

    cli          arguments -> one subcommand; exit status; errors as one or two lines
    session      an open database with a display mode: runs statements and dot commands
    repl         the interactive prompt (the only part that loads prompt_toolkit)
    commands     dot commands, registered by a decorator
    tokens       SQL text -> tokens: shared by statements, completion and highlighting
    statements   text -> complete statements and a rest
    completion   (text, cursor, catalog) -> candidates
    render       rows -> table, csv, json, line, markdown
    progress     a progress bar on a terminal, plain lines elsewhere
    importer, tail, care, demo, demo_writer      the subcommands
"""
