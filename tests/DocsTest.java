package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Checks README and `docs/` against the tool. Needs the checkout; elsewhere the tests are skipped.
final class DocsTest extends WholeCommand {
    private static final Pattern BLOCK = Pattern.compile("(?ms)^```(\\w*)\n(.*?)^```$");

    static List<Path> pages() throws IOException {
        try (var docs = Files.list(checkout().resolve("docs"))) {
            return Stream.concat(docs.filter(page -> page.toString().endsWith(".md")).sorted(),
                    Stream.of("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md").map(checkout()::resolve)).toList();
        }
    }

    static List<Path> pagesWithCommands() throws IOException {
        var pages = new ArrayList<Path>();
        for (var page : pages()) if (Files.readString(page).contains("\n```sh\n")) pages.add(page);
        return pages;
    }

    private static String page(String name) throws IOException {
        return Files.readString(checkout().resolve(name));
    }

    @Nested
    class ACommandInTheDocs {
        /// Commands not run here, by their first words: they need a network, a key, or minutes.
        private static final Pattern NOT_RUN = Pattern.compile(
                "(git|curl|jq|java|sha256sum|tar|benchmarks/\\w+|(\\./)?jbang (app|export|test|package)) .*|difyexec-.*"
                + "|\\./jbang test");

        /// Starts the tool like `./jbang DifyExec.java`, `jbang DifyExec.java` and `difyexec`.
        private void install() throws IOException {
            var java = Given.Tool.words().stream().collect(Collectors.joining("' '", "'", "'"));
            var launcher = """
                    #!/bin/sh
                    IFS=$(printf '\\037')
                    case $0 in */bin/*) me=${0##*/} ;; *) me=$0 ;; esac
                    [ "$1" = DifyExec.java ] && words="$me$IFS$*" && shift || words=$me
                    DIFYEXEC_COMMAND=$words exec""" + " " + java + " \"$@\"\n";
            Files.createDirectories(file("bin"));
            for (var name : List.of("jbang", "bin/jbang", "bin/difyexec"))
                executable(file(name), launcher);
            Files.createDirectories(file("examples"));
            Files.copy(checkout().resolve("examples/reviews.csv"), file("examples/reviews.csv"));
            Files.writeString(file("data.csv"), ShellTest.FIVE);
        }

        /// Holds the address that the pages type for the simulator, and where it is in this test.
        private final Map<String, String> addresses = new HashMap<>();

        /// Runs one line of a page in bash, in the folder; a page's commands run in order. A simulator starts here, in
        /// the background, on a free port.
        private String output(String line, Demo server) throws Exception {
            if (line.startsWith("./jbang simulator ")) {
                var options = List.of(line.split(" ")).subList(2, line.split(" ").length);
                int port = options.indexOf("--port") + 1;
                var simulated = new Simulated(Stream.concat(options.subList(0, port - 1).stream(),
                        options.subList(port + 1, options.size()).stream()).toArray(String[]::new));
                addresses.put("http://127.0.0.1:" + options.get(port) + "/v1", simulated.url());
                return "";
            }
            for (var address : addresses.entrySet()) line = line.replace(address.getKey(), address.getValue());
            var settings = new HashMap<>(Map.of("PATH", file("bin") + ":/usr/bin:/bin", "LC_ALL", "C.UTF-8",
                    "HOME", path("home")));
            // the environment wins over a file
            if (!line.contains("--env-file")) settings.putAll(Map.of("DIFY_API_KEY", KEY,
                    "DIFY_API_BASE_URL", server.baseUrl().toString()));
            return bash(folder, settings, line);
        }

        /// Removes everything that differs from run to run.
        private static String steady(String text) {
            return text.strip().replaceAll("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "RUN")
                    .replaceAll("127\\.0\\.0\\.1:\\d+", "HOST")
                    .replaceAll("\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d", "TIME")
                    .replaceAll("(?m)^( *latency p\\d\\d ).*", "$1")
                    .replaceAll("\\d+(\\.\\d+)? s\\b|\\d+(\\.\\d+)+", "0.0").replaceAll("r-\\d+(, r-\\d+)+", "IDS")
                    .replaceAll("first: r-\\d+", "first: ID")
                    .replaceAll("(?i)(remaining +[\\d,]+ rows?:) [^,]*", "$1 TIME")
                    .replaceAll("(?m)^  (throttled|throughput) .*\n", ""); // of a demo on a busy machine
        }

        /// Runs each block of commands and compares the output shown below it. The next block is typed into the
        /// command instead if its language is `shell`. `-Dgolden.update=true` updates the page instead.
        @Tag("slow")
        @ParameterizedTest(name = "in {0}")
        @MethodSource("difyexec.DocsTest#pagesWithCommands")
        void printsTheOutputShownOnThePage(Path page) throws Exception {
            var text = Files.readString(page);
            var updated = new StringBuilder();
            int copied = 0;
            install();
            try (var server = new Demo(List.of("id", "text", "tone"), "text")) {
                var blocks = BLOCK.matcher(text);
                while (blocks.find()) {
                    if (!blocks.group(1).equals("sh")) continue;
                    var printed = new StringBuilder();
                    var below = BLOCK.matcher(text).region(blocks.end(), text.length());
                    boolean isLast = !below.find();
                    var typed = isLast || !below.group(1).equals("shell") ? ""
                            : " <<'END'\n" + below.group(2) + "END\n";
                    for (var line : blocks.group(2).lines().toList())
                        if (!NOT_RUN.matcher(line).matches()) printed.append(output(line + typed, server));
                    if (isLast || !text.substring(blocks.end(), below.start()).isBlank()) continue;
                    if (!below.group(1).isEmpty()) continue;
                    if (Boolean.getBoolean("golden.update")) {
                        updated.append(text, copied, below.start(2)).append(printed.toString().strip()).append('\n');
                        copied = below.end(2);
                    } else assertEquals(steady(below.group(2)), steady(printed.toString()), blocks.group(2));
                }
            }
            if (copied > 0) Files.writeString(page, updated.append(text, copied, text.length()));
        }

        @Test
        void isTestedUnlessItNeedsANetworkOrAnotherProgram() throws IOException {
            var run = new ArrayList<String>();
            for (var page : pagesWithCommands())
                BLOCK.matcher(Files.readString(page)).results().filter(block -> block.group(1).equals("sh"))
                        .flatMap(block -> block.group(2).lines()).filter(line -> !NOT_RUN.matcher(line).matches())
                        .forEach(run::add);

            assertTrue(run.size() >= 15, run::toString);
            assertTrue(run.contains("./jbang DifyExec.java run --demo -i examples/reviews.csv -o reviews.jsonl"));
        }

        /// They leave files in the checkout, from which no result of a test may depend.
        @Test
        void isTypedInAnotherFolderThanTheOneInWhichTheTestsRun() {
            assertNotEquals(checkout(), Path.of("").toAbsolutePath());
        }

        @Test
        void startsAnAliasOfAnExistingFile() throws IOException {
            assertTrue(page("README.md").contains("```sh\n./jbang test\n```"));

            var script = tree(page("jbang-catalog.json")).at("/aliases/test/script-ref").asText();
            assertTrue(Files.isRegularFile(checkout().resolve(script)), script);
        }
    }

    @Nested
    class ALinkInTheDocs {
        /// GitHub shows the README below the repository's address, from which this leads to the releases.
        static final String RELEASES = "../../releases";

        static final Pattern LINK = Pattern.compile("\\[[^\\]]*]\\(([^)\\s]+)\\)");

        /// Removes code, in which brackets are not links.
        static String prose(String text) {
            return BLOCK.matcher(text).replaceAll("").replaceAll("`[^`\n]*`", "");
        }

        /// Returns the anchor of a heading, as GitHub makes it.
        static String anchor(String heading) {
            return heading.replaceFirst("#+ ", "").toLowerCase().replaceAll("[^\\p{L}\\p{N}_ -]", "").replace(' ', '-');
        }

        private static Set<String> anchors(Path page) throws IOException {
            return BLOCK.matcher(Files.readString(page)).replaceAll("").lines()
                    .filter(line -> line.matches("#{1,6} .*")).map(ALinkInTheDocs::anchor).collect(Collectors.toSet());
        }

        @ParameterizedTest(name = "in {0}")
        @MethodSource("difyexec.DocsTest#pages")
        void leadsToAnExistingFileAndHeading(Path page) throws IOException {
            var targets = LINK.matcher(prose(Files.readString(page))).results().map(link -> link.group(1))
                    .filter(target -> !target.startsWith("https://") && !target.equals(RELEASES)).toList();

            assertAll(targets.stream().map(target -> () -> {
                var parts = target.split("#", 2);
                var file = parts[0].isEmpty() ? page : page.resolveSibling(parts[0]).normalize();
                assertTrue(Files.exists(file), target);
                if (parts.length == 2) assertTrue(anchors(file).contains(parts[1]), target);
            }));
        }

        @Test
        void leadsFromTheReadmeToEachPage() throws IOException {
            var readme = page("README.md");
            for (var page : pages()) assertTrue(page.endsWith("README.md")
                    || readme.contains("(" + checkout().relativize(page).toString().replace('\\', '/') + ")"),
                    page::toString);
        }

        @Test
        void leadsFromTheJBangHeaderToAnExistingPage() throws IOException {
            var links = page("DifyExec.java").lines().takeWhile(line -> !line.isBlank())
                    .filter(line -> line.startsWith("//DOCS ")).map(line -> line.replaceFirst(".*[ =]", "")).toList();

            assertEquals(List.of("README.md", "docs/guide.md", "docs/troubleshooting.md"), links);
            for (var link : links) assertTrue(Files.exists(checkout().resolve(link)), link);
        }
    }

    /// A page says where a figure was measured by a link to the benchmarks' section of that measurement.
    @Nested
    class AMeasuredFigureInTheDocs {
        private static final Pattern SOURCE = Pattern.compile("\\]\\((?:\\.\\./)?benchmarks/README\\.md#([\\w-]+)\\)");
        private static final Pattern FIGURE = Pattern.compile("(?<![\\w.-])\\d+(\\.\\d+)*(?![\\w-])");

        private static List<String> figures(String text) {
            return FIGURE.matcher(text.replaceAll("(?<=\\d),(?=\\d{3})", "")).results().map(MatchResult::group).toList();
        }

        /// Returns the text below the heading with this anchor.
        private static String section(String anchor) throws IOException {
            return Stream.of(page("benchmarks/README.md").split("(?m)^(?=## )"))
                    .filter(section -> ALinkInTheDocs.anchor(section.lines().findFirst().orElseThrow()).equals(anchor))
                    .findFirst().orElseThrow();
        }

        /// Returns the paragraphs and list entries that name their source, with the tables below them.
        private static List<String> paragraphs(Path page) throws IOException {
            var joined = Files.readString(page).replaceAll("\n(\n[^\n]+ \\| [^\n]+\n---)", "$1");
            return Stream.of(joined.split("\n(?=\n|- )")).filter(text -> SOURCE.matcher(text).find())
                    .toList();
        }

        @ParameterizedTest(name = "in {0}")
        @MethodSource("difyexec.DocsTest#pages")
        void isInTheSectionThatThePageNames(Path page) throws IOException {
            for (var paragraph : paragraphs(page)) {
                var source = SOURCE.matcher(paragraph);
                assertTrue(source.find());
                var measured = new HashSet<>(figures(section(source.group(1))));
                var shown = figures(ALinkInTheDocs.LINK.matcher(paragraph).replaceAll(""));

                assertEquals(List.of(), shown.stream().filter(figure -> !measured.contains(figure)).toList(), paragraph);
            }
        }

        /// The README repeats lines of the table of kills, in which a figure without its line means nothing.
        @Test
        void isInTheSameLineInTheReadme() throws IOException {
            var measured = section("measured-for-060");
            var shown = page("README.md").split("Dify, app, mode \\|.*\n---.*\n", 2)[1].lines()
                    .takeWhile(line -> !line.isEmpty()).toList();

            assertTrue(shown.size() >= 6, shown::toString);
            for (var line : shown) assertTrue(measured.contains("\n| " + line + " | "), line);
        }

        @Test
        void isCheckedOnThePagesThatPromiseMost() throws IOException {
            for (var page : List.of("README.md", "docs/unknown.md"))
                assertTrue(paragraphs(checkout().resolve(page)).stream().mapToLong(text -> figures(text).size()).sum()
                        >= 8, page);
        }
    }

    /// The tool prints a message with its hint. The page has an entry only for what both leave out: a cause, what to
    /// check, what not to do.
    @Nested
    class TheTroubleshootingPage {
        /// An entry whose text has fewer words beyond those of its message and hint only repeats them.
        private static final int FEWEST_WORDS = 6;
        private static final Pattern MESSAGE = Pattern.compile("`([^`]+)`");

        private static MessagesTest.Reader tool;

        /// @param messages as the page shows them, with `…` for names and numbers; none for a symptom in bold
        record Entry(List<String> messages, String text) {}

        @BeforeAll
        static void read() throws IOException {
            tool = MessagesTest.Reader.ofTool();
        }

        /// Returns the entries. Their messages are the code before the first colon.
        private static List<Entry> entries() throws IOException {
            var messages = Pattern.compile("- (`[^`]+`(?:, `[^`]+`)*): (.*)|- (\\*\\*.*)");
            return page("docs/troubleshooting.md").replaceAll("\\n +", " ").lines().filter(line -> line.startsWith("- "))
                    .map(line -> {
                        var parts = messages.matcher(line);
                        assertTrue(parts.matches(), line);
                        if (parts.group(1) == null) return new Entry(List.of(), parts.group(3));
                        var shown = MESSAGE.matcher(parts.group(1)).results().map(message -> message.group(1)).toList();
                        return new Entry(shown, parts.group(2));
                    }).toList();
        }

        /// Returns whether a message of the source contains one on the page, with anything for each `…`.
        private static boolean covers(String shown, String message) {
            var parts = Stream.of(shown.split("…")).map(Pattern::quote).collect(Collectors.joining(".*"));
            return Pattern.compile(parts, Pattern.DOTALL).matcher(message.replaceAll("%(\\d\\$)?s", "…")).find();
        }

        /// Returns the texts of the tool and its launcher.
        private static List<String> texts() throws IOException {
            return Stream.of(tool.messages.stream().map(MessagesTest.Message::text), tool.stops.keySet().stream(),
                    page("jbang").lines()).flatMap(texts -> texts).toList();
        }

        @Test
        void listsOnlyMessagesThatExist() throws IOException {
            var texts = texts();

            assertEquals(List.of(), entries().stream().flatMap(entry -> entry.messages().stream())
                    .filter(shown -> texts.stream().noneMatch(text -> covers(shown, text))).toList());
        }

        private static Set<String> words(String text) {
            return Pattern.compile("[\\p{L}\\d_-]{3,}").matcher(text.toLowerCase()).results()
                    .map(word -> word.group().replaceFirst("(es|s|ed|ing)$", "")).collect(Collectors.toSet());
        }

        /// Returns the words of an entry that the user has not read in the message and its hint.
        private static Set<String> added(Entry entry) {
            var added = words(entry.text());
            for (var shown : entry.messages()) {
                added.removeAll(words(shown));
                tool.stops.forEach((sentence, all) -> {
                    if (covers(shown, sentence)) added.removeAll(words(all));
                });
            }
            return added;
        }

        @Test
        void saysMoreThanEachMessageAndItsHint() throws IOException {
            assertEquals(List.of(), entries().stream().filter(entry -> added(entry).size() < FEWEST_WORDS)
                    .map(entry -> entry + ": adds only " + added(entry)).toList());
        }
    }

    @Nested
    class TheDocumentation {
        /// Returns the keys of the table below a heading. They are code in the first column.
        private static String entries(String name, String heading) throws IOException {
            return page(name).split(Pattern.quote(heading), 2)[1].lines().dropWhile(line -> !line.startsWith("`"))
                    .takeWhile(line -> !line.isEmpty()).map(line -> line.split(" \\| ")[0])
                    .flatMap(keys -> Pattern.compile("`(\\w+)`").matcher(keys).results().map(key -> key.group(1)))
                    .collect(Collectors.joining(" "));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                page           | heading             | command
                docs/files.md  | ## `status --json`  | status --json -o OUT -i
                docs/inputs.md | ## `check --json`   | check --demo --json -i
                """)
        void listsTheKeysOfJsonOutputInOrder(String page, String heading, String command) throws IOException {
            rows(1);
            call(Map.of(), typed("run", "--demo"));

            var call = call(Map.of(), words(List.of(command.replace("OUT", output()).split(" ")), input()));

            assertEquals(keys(tree(call.out())), entries(page, heading));
        }

        @Test
        void listsAllFindingsOfAVerificationInOrder() throws IOException {
            assertEquals(Stream.of(Verification.Kind.values()).map(Verification.Kind::key)
                    .collect(Collectors.joining(" ")), entries("docs/files.md", "## `verify --json`"));
        }

        @Test
        void listsEveryExitCodeInTheReadmeAndAboveTheClass() throws IOException {
            var codes = Stream.of(Exit.values()).map(exit -> "" + exit.code).toList();

            assertEquals(codes, Pattern.compile("(?m)^- \\*\\*(\\d+)\\*\\*: ").matcher(page("README.md")).results()
                    .map(match -> match.group(1)).toList());
            assertEquals(codes, Pattern.compile("(?m)^/// \\| (\\d+) \\| ").matcher(page("DifyExec.java")).results()
                    .map(match -> match.group(1)).toList());
        }

        /// Counts what has a letter or a digit: not the lines of a table.
        private static int countWords(String text) {
            return (int) Stream.of(text.split("\\s+")).filter(word -> word.matches("(?U).*\\w.*")).count();
        }

        /// The promise has one form, which guarantees.md defines.
        @Test
        void promisesTheSameEverywhere() throws IOException {
            var promise = "No finished row is lost, no result belongs to another row, and no row is paid for twice";
            var source = page("DifyExec.java").split("\n\n", 3);
            var help = commandLine(Given.env(Map.of())).getCommandSpec().usageMessage().description();
            var texts = Map.of("header", source[0].replaceAll("(?m)^//\\w+ ", ""), "class comment",
                    page("DifyExec.java").split("/// Runs a Dify app once", 2)[1].split("```")[0].replace("///", ""),
                    "help", String.join(" ", help), "catalog", page("jbang-catalog.json"), "README", page("README.md"),
                    "guarantees", page("docs/guarantees.md"));

            texts.forEach((place, text) -> assertTrue(text.replaceAll("\\s+", " ").contains(promise), place));
            for (var place : List.of("header", "class comment", "help", "catalog"))
                assertTrue(texts.get(place).contains("docs/guarantees.md"), place);
        }

        /// More than 120 words before the first command, and nobody types it.
        @Test
        void beginsWithTheCommandAfterFewWords() throws IOException {
            assertTrue(countWords(page("README.md").split("```", 2)[0]) <= 120);
        }

        /// A reader of a new version first needs what no longer works, and the way out.
        @Test
        void beginsEachVersionOfTheChangelogWithWhatBreaks() throws IOException {
            var versions = List.of(page("CHANGELOG.md").split("(?m)^## "));
            var headings = versions.subList(1, versions.size() - 1).stream().map(version -> version.lines()
                    .filter(line -> line.matches("(### \\w+|\\*\\w+\\*)")).findFirst().orElse("none")
                    .replaceAll("[^A-Za-z]", "")).toList();

            assertEquals(Set.of("Breaking"), Set.copyOf(headings));
        }

        /// More words are read less.
        @Test
        void isShort() throws IOException {
            var words = new TreeMap<Path, Integer>();
            for (var page : pages()) if (!page.endsWith("CHANGELOG.md"))
                words.put(checkout().relativize(page), countWords(Files.readString(page)));

            assertTrue(words.remove(Path.of("README.md")) <= 900, words::toString);
            words.remove(Path.of("CONTRIBUTING.md"));
            assertTrue(words.values().stream().mapToInt(count -> count).sum() <= 12_500, words::toString);
        }

        @Test
        void isRightThatCheckPrintsJsonOnlyForAReadableFile() throws IOException {
            Files.writeString(Path.of(input()), "id,text\n1,a\n1,b\n");
            var known = tree(call(Map.of(), "check", "--demo", "--json", "-i", input()).out());
            assertEquals("line 3", known.at("/problems/0/place").asText());

            Files.write(Path.of(input()), new byte[] {'P', 'K', 3, 4});
            call(Map.of(), "check", "--demo", "--json", "-i", input()).exits(2).showsNothing().says(input());
        }

        /// These files contain inputs and outputs.
        @Test
        void usesOnlyOutputFilesThatGitIgnores() throws IOException {
            var output = Pattern.compile("(?:--html|--csv|export -i \\S+ -o \\S+) ([a-z][\\w-]*\\.(?:html|csv))");
            var named = new TreeSet<String>();
            for (var page : pages()) output.matcher(Files.readString(page)).results()
                    .forEach(file -> named.add(file.group(1)));

            assertTrue(named.contains("report.html"), named::toString);

            page(".gitignore").lines().forEach(named::remove);
            assertEquals(Set.of(), named);
        }

        @Test
        void listsEachLibraryWithItsVersion() throws IOException {
            var used = MapTest.source().lines().filter(line -> line.startsWith("//DEPS "))
                    .map(line -> line.substring("//DEPS ".length())).toList();
            var listed = libraries(page("LIBRARIES.md").split("\n## ")[0]).map(row -> row.group(1) + ":" + row.group(2)).toList();

            assertEquals(used, listed);
        }

        /// If an update moves an internal class, the compiler shows the import with its comment, before any test.
        @Test
        void explainsEachInternalClassOfALibrary() throws IOException {
            var imports = MapTest.source().lines().filter(line -> line.matches("import .*\\.internal\\..*"))
                    .toList();

            assertEquals(2, imports.size(), imports::toString);
            for (var line : imports) {
                assertTrue(line.endsWith(" // internal: if an update moved it, see LIBRARIES.md"), line);
                var name = line.replaceFirst("import .*\\.(\\w+);.*", "$1");
                assertTrue(page("LIBRARIES.md").contains("`" + name + "`"), name);
            }
        }

        private static Stream<MatchResult> libraries(String table) {
            return Pattern.compile("(?m)^\\| ([\\w.-]+:[\\w-]+) \\| ([\\d.]+) \\| (\\d+) kB \\| \\w.* \\|$").matcher(table)
                    .results();
        }

        /// The tests run on the tool's libraries. `ArchiveTest` compares the list with the jar.
        @Test
        void listsTheSizeOfEachLibrary() throws IOException {
            var sizes = Stream.of(System.getProperty("java.class.path").split(File.pathSeparator)).map(File::new)
                    .collect(Collectors.toMap(File::getName, jar -> Math.round(jar.length() / 1000.0), (one, _) -> one));
            var listed = libraries(page("LIBRARIES.md")).toList();

            assertTrue(listed.size() >= 20, listed::toString);
            for (var row : listed) {
                var jar = row.group(1).replaceFirst(".*:", "") + "-" + row.group(2) + ".jar";
                assertEquals("" + sizes.get(jar), row.group(3), jar);
            }
        }

        @Test
        void hasTheVersionOfTheTool() throws IOException {
            assertTrue(page("DifyExec.java").contains("\n//GAV difyexec:difyexec:" + VERSION + "\n"));
            assertTrue(page("examples/scale/kubernetes.yaml").contains("/difyexec:" + VERSION + "\n"));
            assertEquals(VERSION, Pattern.compile("(?m)^## (\\d\\S+) \\(\\d{4}-\\d\\d-\\d\\d\\)$")
                    .matcher(page("CHANGELOG.md")).results().findFirst().orElseThrow().group(1));
        }

        /// `ArchiveTest` builds and uses them.
        @Test
        void offersTheFilesThatATagPublishes() throws IOException {
            var workflow = page(".github/workflows/release.yml");
            assertTrue(workflow.contains("gh release create \"$GITHUB_REF_NAME\""));
            assertTrue(workflow.contains("difyexec.jar difyexec.cdx.json difyexec-* SHA256SUMS"));
            for (var file : List.of("difyexec.jar", "difyexec.cdx.json", "SHA256SUMS",
                    "difyexec-" + VERSION + "-linux-x86_64.tar.gz"))
                assertTrue(page("docs/install.md").contains(file), file);
        }
    }

    /// The JDK and JLine read these properties once. `main` sets them, so that they need not be given at each start.
    @Nested
    @ResourceLock(Resources.SYSTEM_PROPERTIES)
    class JavaSystemProperties {
        private static final List<String> NAMES = List.of("jdk.httpclient.keepalive.timeout",
                "jdk.http.auth.tunneling.disabledSchemes", "jdk.httpclient.bufsize");

        private final Properties before = (Properties) System.getProperties().clone();

        @AfterEach
        void restore() {
            System.setProperties(before);
        }

        @Test
        void keepTheValuesThatAreAlreadySet() {
            NAMES.forEach(name -> System.setProperty(name, "7"));

            setProperties();

            assertEquals(List.of("7", "7", "7"), NAMES.stream().map(System::getProperty).toList());
        }

        @Test
        void preventNativeAccessWarningsInATerminal() throws Exception {
            assumeTrue(Files.isExecutable(Path.of("/usr/bin/script")), "script (a fake terminal) is not installed");
            var java = String.join(" ", Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-cp",
                    System.getProperty("java.class.path"), "difyexec.DifyExec shell");
            var history = Files.createDirectories(folder.resolve("difyexec")).resolve("history");
            Files.writeString(history, "");
            Files.setPosixFilePermissions(history, PosixFilePermissions.fromString("rw-r--r--"));

            var shell = start(List.of("/usr/bin/script", "-qec", java, "/dev/null"),
                    Map.of("XDG_STATE_HOME", folder.toString()));
            shell.outputWriter().append("exit\n").flush();

            ended(shell).exits(0).shows("difyexec " + VERSION).omits("WARNING");
        }
    }
}
