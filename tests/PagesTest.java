package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Compares the tables of `docs/` and the counts on the pages with what the tool prints. A script relies on them.
final class PagesTest extends WholeCommand {
    /// Holds a code word of a page, such as `` `total` ``.
    private static final Pattern CODE = Pattern.compile("`([^`\n]+)`");

    static List<Path> pages() throws IOException {
        return DocsTest.pages();
    }

    private static String page(String name) throws IOException {
        return Files.readString(checkout().resolve(name));
    }

    /// Returns the text below a heading of this level or lower, up to the next one.
    private static String section(String name, String heading) throws IOException {
        return ("\n" + page(name)).split(Pattern.quote("\n" + heading + "\n"), 2)[1].split("(?m)^## ", 2)[0];
    }

    private static List<String> codes(String text) {
        return CODE.matcher(text).results().map(code -> code.group(1)).toList();
    }

    /// Returns the cells of the rows of a section's table whose header begins with this word.
    private static List<List<String>> table(String section, String first) {
        return section.lines().dropWhile(line -> !line.startsWith(first + " |")).skip(2)
                .takeWhile(line -> line.contains(" | ")).map(line -> List.of(line.split(" \\| "))).toList();
    }

    private static List<String> keys(List<List<String>> table) {
        return table.stream().flatMap(row -> codes(row.getFirst()).stream()).toList();
    }

    private static List<String> keysOf(JsonNode object) {
        return object.properties().stream().map(Map.Entry::getKey).toList();
    }

    /// Runs the demo on these rows of `id,text,answer_expected`.
    private void run(String output, String... rows) throws IOException {
        csv(words(List.of("id,text,answer_expected"), rows));
        call(Map.of(), "run", "--demo", "-i", input(), "-o", path(output), "--progress", "off", "--keep-changed", "-c", "1");
    }

    @Nested
    class ATableOfKeys {
        @Test
        void listsThoseOfRun() throws IOException {
            rows(1);

            var json = tree(call(Map.of(), typed("run", "--demo", "--json")).out());

            var ofStatus = keysOf(tree(call(Map.of(), "status", "-o", output(), "--json").out()));
            var own = keysOf(json).stream().filter(key -> !key.equals("forecast")).toList();
            var counts = ofStatus.subList(0, ofStatus.indexOf("pending") + 1);
            assertEquals(counts, own.subList(0, counts.size()));
            assertEquals(own.subList(counts.size(), own.size()),
                    keys(table(section("docs/files.md", "## `run --json`"), "key")));
        }

        /// The page lists the keys of a part in the part's own row.
        @Test
        void listsThoseOfThePartsOfStatus() throws IOException {
            run("results.jsonl", "1,[fail] one,x", "2,two,x");

            var json = tree(call(Map.of(), "status", "-o", output(), "--json").out());

            var table = table(section("docs/files.md", "## `status --json`"), "key");
            var parts = Map.of("errors", json.at("/errors/0"), "seconds", json.path("seconds"),
                    "missing_files", json.path("missing_files"));
            for (var row : table) if (parts.containsKey(keys(List.of(row)).getFirst()))
                assertEquals(keysOf(parts.get(keys(List.of(row)).getFirst())), codes(row.getLast()), row::toString);
        }

        @Test
        void listsThoseOfTheForecast() throws IOException {
            csv(Stream.concat(Stream.of("id,text"), IntStream.range(0, 9).mapToObj(id -> id + ",text")).toArray(String[]::new));

            var json = tree(call(Map.of(), typed("run", "--demo", "--sample", "6", "--json")).out());

            var sentence = Pattern.compile("`forecast` has (.*?)\\.", Pattern.DOTALL)
                    .matcher(section("docs/files.md", "## `status --json`")).results().findFirst().orElseThrow().group(1);
            var shown = new LinkedHashSet<>(keysOf(json.path("forecast")));
            shown.addAll(keysOf(json.at("/forecast/seconds")));
            assertEquals(shown, Set.copyOf(codes(sentence)));
        }

        private List<String> kinds() throws IOException {
            return codes(table(page("docs/compare.md"), "kind").stream().map(List::getFirst)
                    .collect(Collectors.joining(" ")));
        }

        @Test
        void listsThoseOfCompare() throws IOException {
            run("a.jsonl", "1,one,x");
            run("b.jsonl", "1,two,x");
            var judged = List.of("-i", input(), "--expect", "answer_expected=/answer", "--json");
            var own = keys(table(section("docs/compare.md", "## As a page, a spreadsheet or JSON"), "key"));

            var both = tree(call(Map.of(), words(List.of("compare", path("a.jsonl"), path("b.jsonl")),
                    judged.toArray(String[]::new))).out());
            var one = tree(call(Map.of(), words(List.of("compare", path("b.jsonl")), judged.toArray(String[]::new))).out());

            assertEquals(kinds(), keysOf(both).subList(0, kinds().size()));
            assertEquals(List.of("same", "neither"), own.subList(0, 2));
            assertEquals(keysOf(both).subList(kinds().size(), keysOf(both).size()), own.subList(2, own.size()));
            assertEquals(own.subList(2, own.size()), keysOf(one));
        }

        /// A script that trusts the page must not meet a row without a key.
        @Test
        void listsThoseOfARowOfCompareAndWhichCanBeMissing() throws IOException {
            run("a.jsonl", "1,one,Demo answer to: one", "2,[fail] two,x", "3,three,x", "4,four,", "5,five,x");
            run("b.jsonl", "1,other,Demo answer to: one", "2,two,x", "3,[fail] three,x", "4,changed,");

            var rows = new ArrayList<JsonNode>();
            for (var judged : List.of(List.of("--json"), List.of("--json", "-i", input(), "--expect",
                    "answer_expected=/answer"))) tree(call(Map.of(), words(List.of("compare", path("a.jsonl"),
                            path("b.jsonl")), judged.toArray(String[]::new))).out()).path("rows").forEach(rows::add);

            var table = table(section("docs/compare.md", "## As a page, a spreadsheet or JSON"), "key of a row");
            var always = new ArrayList<>(keysOf(rows.getFirst()));
            var all = new TreeSet<String>();
            for (var row : rows) {
                always.retainAll(keysOf(row));
                all.addAll(keysOf(row));
            }
            assertEquals(all, new TreeSet<>(keys(table)));
            assertEquals(always, keys(table.stream().filter(row -> row.get(1).equals("always")).toList()));
        }

        @Test
        void listsThoseOfVerifyWithTheirTitles() throws IOException {
            var simulated = new Simulated("--latency", "10ms");
            rows(1);
            call(simulated.settings(), typed("run"));
            var section = section("docs/files.md", "## `verify --json`");

            var json = tree(call(simulated.settings(), "verify", "-o", output(), "--json").out());

            var sentence = section.split("\\.")[0].split(": ");
            assertEquals(keysOf(json), codes(sentence[0]));
            assertEquals(keysOf(json.at("/findings/matches/0")), codes(sentence[1]));
            assertEquals(Stream.of(Verification.Kind.values()).map(kind -> kind.key() + " | "
                    + Verification.Kind.TITLES.getOrDefault(kind, kind.word())).toList(),
                    table(section, "kind").stream().map(row -> codes(row.getFirst()).getFirst() + " | " + row.get(1))
                            .toList());
        }
    }

    @Nested
    class ATableOfColumns {
        /// Returns the header with a pattern such as `output.NAME` for the columns that an app or an input names.
        private static List<String> header(Path csv, String... patterns) throws IOException {
            var header = Files.readAllLines(csv).getFirst().replace("\ufeff", "");
            for (var pattern : patterns) header = header.replaceAll("(?<![^,])" + Pattern.quote(
                    pattern.replaceFirst("(NAME|COLUMN)$", "")) + "\\w+", pattern);
            return Stream.of(header.split(",")).distinct().toList();
        }

        @Test
        void listsThoseOfExport() throws IOException {
            run("results.jsonl", "1,one,x");

            call(Map.of(), "export", "-i", input(), "-o", output(), path("back.csv"));

            var header = header(file("back.csv"), "output.NAME");
            assertEquals(header.subList(3, header.size()), keys(table(section("docs/files.md", "## `export`"), "column")));
        }

        @Test
        void listsThoseOfCompare() throws IOException {
            run("a.jsonl", "1,one,x");
            run("b.jsonl", "1,two,x");

            call(Map.of(), "compare", path("a.jsonl"), path("b.jsonl"), "-i", input(), "--expect",
                    "answer_expected=/answer", "--csv", path("out.csv"));

            assertEquals(header(file("out.csv"), "input.NAME", "first/NAME", "second/NAME", "expected.COLUMN"),
                    keys(table(section("docs/compare.md", "## As a page, a spreadsheet or JSON"), "column")));
        }
    }

    @Nested
    class TheTableOfOutcomes {
        /// Returns the first words of the README's line about a row.
        private static String line(Batch batch, int entry) {
            // a succeeded row can have been interrupted while it ran again
            if (!batch.index().status(entry).isOnRetryList()
                    && batch.history().unresolvedByRow().containsKey(entry)) return "– interrupted";
            if (batch.index().status(entry) != RowStatus.FAILED
                    || batch.history().paidFailures(false).noneMatch(paid -> paid == entry))
                return batch.index().status(entry).word();
            return batch.history().paidFailures(true).anyMatch(paid -> paid == entry) ? "– stopped" : "– a [required";
        }

        /// Returns the beginning of the table's cell for what a command does with a row. One that failed runs again even
        /// if its reported failure must be confirmed first.
        private static String taken(Batch.SessionRows rows, int entry) {
            boolean isFailed = rows.batch().index().status(entry) == RowStatus.FAILED;
            return rows.fresh().get(entry) || isFailed && rows.unresolved().containsKey(entry) ? "runs it" : rows.unresolved().containsKey(entry) ? "looks it up" : "";
        }

        @Test
        void isTrueForTheRowsOfRealBatches() throws IOException {
            var table = table(page("README.md"), "outcome").stream().collect(Collectors.toMap(
                    row -> row.getFirst().replace("*", ""), row -> row.subList(2, 4)));
            var seen = new TreeSet<String>();
            for (var frozen : FrozenBatch.in(checkout().resolve("tests/batches"))) {
                if (!Files.readString(frozen.home().resolve("data.csv")).startsWith("id,")) continue;
                if (!Files.exists(frozen.home().resolve("results.jsonl.log"))) continue;
                var csv = Csv.open(frozen.home().resolve("data.csv"), Csv.Shape.DEFAULT);
                var batch = Batch.peek(BatchFiles.of(frozen.home().resolve("results.jsonl")), Optional.of(csv), false);
                for (int entry = 0; entry < batch.index().rows(); entry++) {
                    var line = line(batch, entry);
                    var cells = table.entrySet().stream().filter(row -> row.getKey().startsWith(line)).findFirst()
                            .orElseThrow().getValue();
                    seen.add(line);
                    var selections = List.of(Batch.Selection.PENDING, Batch.Selection.LISTED);
                    for (int i = 0; i < 2; i++) {
                        var taken = taken(batch.select(selections.get(i)), entry);
                        var cell = cells.get(i).matches("(runs it|looks it up).*") ? cells.get(i) : "";
                        assertEquals(taken, cell, frozen + ": row " + batch.index().id(entry) + ", " + line);
                    }
                }
            }

            // no frozen batch has an unknown row, or one that was stopped after its form was answered
            assertEquals(Set.of("pending", "– interrupted", "succeeded", "partial", "failed", "– a [required", "paused"),
                    seen);
        }
    }

    @Nested
    class ThePictureOfTheTerminal {
        /// Returns the lines of the picture without the numbers.
        private static List<String> lines() throws IOException {
            var lines = new TreeMap<Integer, String>();
            Pattern.compile("<text x=\"[\\d.]+\" y=\"(\\d+)\"[^>]*>([^<]*)").matcher(page("docs/run.svg")).results()
                    .forEach(text -> lines.merge(Integer.valueOf(text.group(1)), text.group(2), String::concat));
            return List.copyOf(lines.values());
        }

        /// Returns the beginnings of the indented lines: `succeeded`, `tokens`.
        private static Set<String> labels(Stream<String> lines) {
            return lines.filter(line -> line.matches(" {2}[a-z].*")).map(line -> line.strip().split("  +|:")[0])
                    .collect(Collectors.toCollection(TreeSet::new));
        }

        /// If it fails, `benchmarks/pictures docs/run.svg` draws the picture again.
        @Test
        void showsWhatTheToolPrints() throws IOException {
            csv("id,text", "1,one", "2,[fail] two");
            var run = call(Map.of(), typed("run", "--demo"));

            var status = call(Map.of(), "status", "-o", output());

            var lines = lines();
            var typed = lines.stream().filter(line -> line.startsWith("$ difyexec ")).toList();
            assertEquals(List.of("run", "run", "status"), typed.stream().map(line -> line.split(" ")[2]).toList());
            for (var line : typed) commandLine(Given.env(Map.of())).parseArgs(line.substring("$ difyexec ".length()).split(" "));
            int third = lines.lastIndexOf(typed.getLast());
            assertEquals(labels(status.out().lines()), labels(lines.stream().skip(third)));
            assertTrue(labels((run.out() + run.err()).lines()).containsAll(labels(lines.stream().limit(third))));
        }
    }

    @Nested
    class APage {
        /// Holds the options of other programs, and the one of a command of the shell.
        private static final Set<String> OF_OTHERS = Set.of("--port", "--dify", "--drop-after", "--columns", "--name",
                "--parsable", "--dependency", "--wrap", "--retries", "--enable-native-access", "--full",
                "--ignore-missing");

        /// Options are compared with the whole command line.
        @ParameterizedTest(name = "{0}")
        @MethodSource("difyexec.PagesTest#pages")
        void mentionsOnlyOptionsThatExist(Path page) throws IOException {
            if (page.endsWith("CHANGELOG.md") || page.endsWith("CONTRIBUTING.md")) return;
            var known = new HashSet<>(OF_OTHERS);
            commandLine(Given.env(Map.of())).getSubcommands().values().forEach(command ->
                    command.getCommandSpec().options().forEach(option -> known.addAll(List.of(option.names()))));

            var unknown = Pattern.compile("(?<![\\w-])--[a-z][a-z-]+").matcher(Files.readString(page)).results()
                    .map(MatchResult::group).filter(option -> !known.contains(option)).distinct().toList();

            assertEquals(List.of(), unknown);
        }

        @Test
        void listsTheOptionsThatCannotChangeWithinABatch() throws IOException {
            var fixed = Pattern.compile("requireSame\\(\"(--[\\w-]+)\"").matcher(page("DifyExec.java")).results()
                    .map(match -> match.group(1)).collect(Collectors.toCollection(TreeSet::new));
            fixed.add("--id-column"); // see Csv.requireSameIds

            var paragraph = Stream.of(page("docs/inputs.md").split("\n\n"))
                    .filter(text -> text.contains("cannot change within a batch")).findFirst().orElseThrow();

            assertEquals(fixed, codes(paragraph).stream().map(code -> code.split(" ")[0])
                    .collect(Collectors.toCollection(TreeSet::new)));
        }

        /// A number that nobody counts again grows old.
        @Test
        void countsTheInvariantsOfTheTool() throws IOException {
            var words = List.of("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten",
                    "Eleven", "Twelve");
            var source = page("DifyExec.java").lines().filter(line -> !line.strip().startsWith("//"))
                    .filter(line -> line.contains("Invariant.hold(")).count();

            var counts = Pattern.compile("(\\w+) invariants are checked").matcher(page("benchmarks/README.md"))
                    .results().map(match -> match.group(1)).toList();

            assertEquals(List.of(words.get((int) source)), counts);
        }

        /// Holds how blocks begin that are not the output of the commands above them. The first is compared with the
        /// shell's own story.
        private static final List<String> NO_OUTPUTS = List.of("results.jsonl (2 failed) dify>", "DIFY_API_KEY=",
                "rest × mean", "Remaining 9,980 rows");

        /// An output that no test compares was wrong in 0.6.0.
        @ParameterizedTest(name = "{0}")
        @MethodSource("difyexec.PagesTest#pages")
        void showsNoOutputWithoutItsCommand(Path page) throws IOException {
            var text = Files.readString(page);
            var blocks = Pattern.compile("(?ms)^ *```(\\w*)\n(.*?)^ *```$").matcher(text);
            int end = -1;
            var alone = new ArrayList<String>();
            while (blocks.find()) {
                boolean isBelow = end >= 0 && text.substring(end, blocks.start()).isBlank();
                if (blocks.group(1).isEmpty() && !isBelow) alone.add(blocks.group(2));
                end = blocks.group(1).equals("sh") ? blocks.end() : -1;
            }

            assertEquals(List.of(), alone.stream().filter(block -> NO_OUTPUTS.stream().noneMatch(block::startsWith))
                    .toList());
        }
    }
}
