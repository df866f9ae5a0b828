///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Draws docs/run.svg, a picture of a batch that is interrupted and resumed.
//SOURCES ../DifyExec.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Parameters;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;

/// Types the commands into a real terminal (tmux), and draws what it shows, so that the picture can be renewed when the
/// tool's output changes.
@Command(name = "pictures", mixinStandardHelpOptions = true, usageHelpWidth = 100,
        description = "Run the demo in a terminal, press Ctrl-C, resume, and draw the screen. Needs tmux and bash.",
        footer = {"", "Example: benchmarks/pictures docs/run.svg"})
final class Pictures implements Callable<Integer> {
    private static final int COLUMNS = 100, ROWS = 50, ROW_HEIGHT = 18, MARGIN = 14;
    private static final double COLUMN_WIDTH = 7.8;
    private static final Duration PATIENCE = Duration.ofMinutes(1);
    private static final String RUN = "difyexec run --demo -i reviews.csv -o results.jsonl";

    @Parameters(paramLabel = "SVG", description = "Write the picture here.")
    Path target;

    static void main(String... args) {
        System.exit(new CommandLine(new Pictures()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var folder = Files.createTempDirectory("pictures");
        Files.writeString(folder.resolve("reviews.csv"), "id,text\n" + IntStream.rangeClosed(1, 200)
                .mapToObj(id -> id + "," + (id % 70 == 0 ? "[fail] " : "") + "review " + id + "\n")
                .collect(Collectors.joining()));
        var start = Files.createDirectories(folder.resolve("bin")).resolve("difyexec");
        Files.writeString(start, """
                #!/bin/sh
                DIFYEXEC_COMMAND=difyexec exec '%s/bin/java' --enable-native-access=ALL-UNNAMED -cp '%s' difyexec.DifyExec "$@"
                """.formatted(System.getProperty("java.home"), System.getProperty("java.class.path")));
        Files.setPosixFilePermissions(start, PosixFilePermissions.fromString("rwxr-xr-x"));

        try {
            tmux(folder, "-f", "/dev/null", "new-session", "-d", "-x", "" + COLUMNS, "-y", "" + ROWS,
                    "PATH='" + start.getParent() + "':\"$PATH\" PS1='$ ' exec bash --norc --noprofile");
            await(folder, "(?s)\\$\\s*");
            type(folder, RUN);
            await(folder, "(?s).*\\b(6|7)\\d/200.*");
            tmux(folder, "send-keys", "C-c");
            await(folder, "(?s).*\nNext:.*\n\\$\\s*");
            type(folder, RUN);
            await(folder, "(?s).*\nBatch: \\d+ succeeded, \\d+ failed.*\n\\$\\s*");
            type(folder, "difyexec status -o results.jsonl");
            await(folder, "(?s).*status -o results\\.jsonl\n.+\n\\$\\s*");
            Files.writeString(target, svg(tmux(folder, "capture-pane", "-p", "-e").stripTrailing()));
        } finally {
            tmux(folder, "kill-server");
        }
        return 0;
    }

    private static void type(Path folder, String line) throws Exception {
        tmux(folder, "send-keys", "-l", line);
        tmux(folder, "send-keys", "Enter");
    }

    /// Waits until the whole screen matches.
    private static void await(Path folder, String screen) throws Exception {
        var pattern = Pattern.compile(screen);
        var end = Instant.now().plus(PATIENCE);
        var shown = "";
        while (Instant.now().isBefore(end)) {
            shown = tmux(folder, "capture-pane", "-p");
            if (pattern.matcher(shown).matches()) return;
            Thread.sleep(50);
        }
        throw new IllegalStateException("the screen does not match " + screen + ":\n" + shown);
    }

    private static String tmux(Path folder, String... args) throws Exception {
        var words = new ArrayList<>(List.of("tmux", "-S", folder.resolve("socket").toString()));
        words.addAll(List.of(args));
        return run(folder, words.toArray(String[]::new));
    }

    private static String run(Path folder, String... command) throws Exception {
        var process = new ProcessBuilder(command).directory(folder.toFile())
                .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        var out = new String(process.getInputStream().readAllBytes(), UTF_8);
        if (process.waitFor() != 0) throw new IllegalStateException(String.join(" ", command) + " failed: " + out);
        return out;
    }

    // ── Drawing ──────────────────────────────────────────────────────────────

    private static final Pattern PART = Pattern.compile("\u001b\\[([\\d;]*)m|[^\u001b]+");

    /// Draws a screen whose colours are escape codes. The browser chooses the light or the dark colours.
    private static String svg(String screen) {
        var lines = screen.lines().toList();
        var text = new StringBuilder();
        var styles = new TreeSet<Integer>();
        for (int i = 0; i < lines.size(); i++) {
            int column = 0;
            for (var part : PART.matcher(lines.get(i)).results().toList()) {
                if (part.group(1) != null) change(styles, part.group(1));
                else {
                    text.append("<text x=\"%.1f\" y=\"%d\"%s>%s</text>\n".formatted(MARGIN + column * COLUMN_WIDTH,
                            MARGIN + 14 + i * ROW_HEIGHT, styles.isEmpty() ? "" : " class=\"" + styles.stream()
                                    .map(style -> "s" + style).collect(Collectors.joining(" ")) + "\"",
                            part.group().replace("&", "&amp;").replace("<", "&lt;")));
                    column += part.group().length();
                }
            }
        }
        return """
                <svg xmlns="http://www.w3.org/2000/svg" width="%1$d" height="%2$d" viewBox="0 0 %1$d %2$d" xml:space="preserve">
                <style>
                text { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; fill: #24292f }
                rect { fill: #f6f8fa; stroke: #d0d7de }
                .s1 { font-weight: bold } .s2 { opacity: .7 }
                .s31 { fill: #b42318 } .s32 { fill: #1a7f37 } .s33 { fill: #8a5a00 } .s34, .s36 { fill: #0969da } .s35 { fill: #8250df }
                @media (prefers-color-scheme: dark) {
                text { fill: #e6edf3 } rect { fill: #0d1117; stroke: #30363d }
                .s31 { fill: #ff7b72 } .s32 { fill: #3fb950 } .s33 { fill: #d29922 } .s34, .s36 { fill: #58a6ff } .s35 { fill: #bc8cff }
                }
                </style>
                <rect x=".5" y=".5" width="%3$d" height="%4$d" rx="8"/>
                %5$s</svg>
                """.formatted(width(), height(lines), width() - 1, height(lines) - 1, text);
    }

    private static int width() {
        return (int) (2 * MARGIN + COLUMNS * COLUMN_WIDTH);
    }

    private static int height(List<String> lines) {
        return 2 * MARGIN + lines.size() * ROW_HEIGHT;
    }

    /// Applies an escape code such as `1;32`: 0 ends all styles, 39 the colour. Backgrounds (4x) are not drawn.
    private static void change(Set<Integer> styles, String codes) {
        for (var code : codes.split(";")) {
            int style = code.isEmpty() ? 0 : Integer.parseInt(code);
            if (style == 0) styles.clear();
            if (style == 39 || style / 10 == 3) styles.removeIf(other -> other / 10 == 3);
            if (style > 0 && style < 39) styles.add(style);
        }
    }
}
