package difyexec;

import com.github.tomakehurst.wiremock.WireMockServer;
import org.dhatim.fastexcel.reader.ReadableWorkbook;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;

import module java.base;

import static com.github.tomakehurst.wiremock.core.WireMockConfiguration.options;
import static difyexec.WholeCommand.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Builds the archive of a release once and uses it as on a machine without Java: unpacked into a folder with a space in
/// its name, with an empty home, and with no other program than those of a small system on the PATH.
@Tag("slow")
final class ArchiveTest {

    @Nested
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    class TheArchive {
        private static final String DATA = "id,text\n1,one\n2,two\n3,[fail] three\n";

        @TempDir static Path root;
        private Path archive, home, program, folder;

        @BeforeAll
        void buildAndUnpack() throws Exception {
            var built = root.resolve("built");
            run(new ProcessBuilder(checkout().resolve("jbang").toString(), "package", "--into", built.toString()));
            try (var files = Files.list(built)) {
                archive = files.filter(file -> file.toString().endsWith(".tar.gz")).findFirst().orElseThrow();
            }
            var unpacked = Files.createDirectories(root.resolve("with a space"));
            run(new ProcessBuilder("tar", "xzf", archive.toString(), "-C", unpacked.toString()));
            home = Files.createDirectories(root.resolve("home"));
            program = unpacked.resolve(archive.getFileName().toString().replace(".tar.gz", ""))
                    .resolve("bin/difyexec");
            folder = Files.createDirectories(root.resolve("work"));
            Files.writeString(folder.resolve("data.csv"), DATA);
        }

        private static void run(ProcessBuilder command) throws Exception {
            var process = command.redirectErrorStream(true).start();
            process.getOutputStream().close();
            var out = new String(process.getInputStream().readAllBytes(), UTF_8);
            assertEquals(0, process.waitFor(), out);
        }

        private ProcessBuilder tool(String... args) {
            var words = new ArrayList<>(List.of(program.toString()));
            words.addAll(List.of(args));
            var command = new ProcessBuilder(words).directory(folder.toFile());
            command.environment().clear();
            command.environment().putAll(Map.of("PATH", "/usr/bin:/bin", "HOME", home.toString()));
            return command;
        }

        private Call call(String input, String... args) throws Exception {
            var err = Files.createTempFile(root, "err", "");
            var process = tool(args).redirectError(err.toFile()).start();
            try (var stdin = process.getOutputStream()) {
                stdin.write(input.getBytes(UTF_8));
            }
            var out = new String(process.getInputStream().readAllBytes(), UTF_8);
            return new Call(process.waitFor(), out, Files.readString(err));
        }

        private Call command(String line) throws Exception {
            return call("", line.split(" "));
        }

        /// Each test has its own results.
        private Call ran(String name) throws Exception {
            return command("run --demo -i data.csv -o " + name).exits(3);
        }

        @Test
        void hasNoMoreThan60MegabytesAnd90Unpacked() throws IOException {
            long unpacked;
            try (var files = Files.walk(program.getParent().getParent())) {
                unpacked = files.filter(Files::isRegularFile).mapToLong(file -> file.toFile().length()).sum();
            }

            assertTrue(Files.size(archive) <= 60e6, () -> "packed: " + archive.toFile().length());
            assertTrue(unpacked <= 90e6, () -> "unpacked: " + unpacked);
        }

        @Test
        void containsTheLicences() {
            var top = program.getParent().getParent();
            for (var each : List.of("LICENSE", "LIBRARIES.md", "runtime/legal/java.base/LICENSE", "README.md",
                    "docs/guide.md", ".env.example")) assertTrue(Files.exists(top.resolve(each)), each);
        }

        /// A page of the archive must not lead to a file that only a clone has.
        @Test
        void hasEachFileThatAPageLinksTo() throws IOException {
            var top = program.getParent().getParent();
            List<Path> pages;
            try (var files = Files.walk(top)) {
                pages = files.filter(file -> file.toString().endsWith(".md") && !file.startsWith(top.resolve("runtime")))
                        .toList();
            }
            var dead = new ArrayList<String>();
            for (var page : pages)
                DocsTest.ALinkInTheDocs.LINK.matcher(DocsTest.ALinkInTheDocs.prose(Files.readString(page))).results()
                        .map(link -> link.group(1).replaceFirst("#.*", ""))
                        .filter(link -> !link.isEmpty() && !link.startsWith("https://")
                                && !link.equals(DocsTest.ALinkInTheDocs.RELEASES))
                        .filter(link -> !Files.exists(page.resolveSibling(link)))
                        .forEach(link -> dead.add(top.relativize(page) + ": " + link));

            assertTrue(pages.size() >= 19, pages::toString);
            assertEquals(List.of(), dead);
        }

        @Test
        void hasTheChecksumThatItsFileNames() throws Exception {
            run(new ProcessBuilder("sha256sum", "-c", "SHA256SUMS").directory(archive.getParent().toFile()));

            var sums = Files.readString(archive.resolveSibling("SHA256SUMS"));
            for (var file : List.of("difyexec.jar", "difyexec.cdx.json", archive.getFileName().toString()))
                assertTrue(sums.contains("  " + file + "\n"), file);
        }

        private static Set<String> found(String text, String pattern) {
            return Pattern.compile(pattern).matcher(text).results().map(found -> IntStream.rangeClosed(1, 3)
                    .mapToObj(found::group).collect(Collectors.joining(":"))).collect(Collectors.toCollection(TreeSet::new));
        }

        /// The jar holds the coordinates of the libraries that Maven built, except the parts of JLine.
        @Test
        void containsTheLibrariesOfThePageAndOfTheBillOfMaterials() throws IOException {
            var top = program.getParent().getParent();
            var listed = found(Files.readString(top.resolve("LIBRARIES.md")),
                    "(?m)^\\| ([\\w.-]+):([\\w-]+) \\| ([\\d.]+) \\|");
            var bom = Given.tree(Files.readString(top.resolve("difyexec.cdx.json"))).path("components").valueStream()
                    .map(library -> Stream.of("group", "name", "version").map(key -> library.path(key).asText())
                            .collect(Collectors.joining(":"))).collect(Collectors.toCollection(TreeSet::new));
            assertEquals(listed, bom);

            var packed = new TreeSet<String>();
            try (var jar = FileSystems.newFileSystem(top.resolve("lib/difyexec.jar"));
                    var files = Files.walk(jar.getPath("META-INF/maven"))) {
                for (var file : files.filter(file -> file.endsWith("pom.properties")).toList()) {
                    var coordinates = new Properties();
                    coordinates.load(new ByteArrayInputStream(Files.readAllBytes(file)));
                    packed.add(String.join(":", coordinates.getProperty("groupId"), coordinates.getProperty("artifactId"),
                            coordinates.getProperty("version")));
                }
            }
            packed.removeIf(library -> library.matches("org\\.jline:(jline-|jansi-).*"));
            listed.removeIf(library -> library.startsWith("info.picocli:")); // has no coordinates in its jar
            assertEquals(listed, packed);
        }

        @Test
        void runsTheDemo() throws Exception {
            ran("demo.jsonl").omits("WARNING").mentions("Next: ", "/bin/difyexec");

            assertEquals(2, Files.readAllLines(folder.resolve("demo.jsonl")).size());
        }

        /// A module that the archive lacks ends a command with another code.
        @Test
        void runsEveryOtherCommand() throws Exception {
            ran("one.jsonl");
            ran("two.jsonl");

            command("--version").exits(0).shows(DifyExec.NAME_AND_VERSION).saysNothing();
            command("retry --demo -i data.csv -o one.jsonl").exits(3);
            command("status -o one.jsonl --json").exits(3).shows("\"succeeded\":2");
            command("status -i data.csv -o one.jsonl --html report.html").exits(3);
            command("compare one.jsonl two.jsonl").exits(0);
            command("verify -o one.jsonl").exits(2);
            command("help run").exits(0).shows("--concurrency");
            command("generate-completion").exits(0).shows("difyexec");
            command("run --nosuch").exits(2).mentions("--nosuch");
            assertTrue(Files.readString(folder.resolve("report.html")).contains("</html>"));
        }

        @Test
        void checksTheRowsInAnotherEncoding() throws Exception {
            Files.write(folder.resolve("sjis.csv"), "id,text\n1,結果\n".getBytes("Shift_JIS"));

            command("check --demo -i sjis.csv --encoding Shift_JIS").exits(0);
        }

        @Test
        void exportsAWorkbookAndReadsIt() throws Exception {
            ran("exported.jsonl");

            command("export -i data.csv -o exported.jsonl back.xlsx").exits(0);

            try (var book = new ReadableWorkbook(folder.resolve("back.xlsx").toFile())) {
                assertEquals(4, book.getFirstSheet().read().size());
            }
            command("run --demo -i back.xlsx --id-column id -o book.jsonl --map text=text").exits(3);
        }

        @Test
        void runsTheLinesOfAShell() throws Exception {
            call("run\nfailures\n", "shell", "--demo", "-i", "data.csv", "-o", "shell.jsonl").exits(3).mentions("3");

            assertEquals(2, Files.readAllLines(folder.resolve("shell.jsonl")).size());
        }

        /// Java must bring what a TLS connection needs: the server's certificate is read and rejected.
        @Test
        void speaksTls() throws Exception {
            var server = new WireMockServer(options().dynamicPort().dynamicHttpsPort());
            server.start();
            try {
                var command = tool("check", "-i", "data.csv", "--base-url", "https://localhost:" + server.httpsPort()
                        + "/v1");
                command.environment().putAll(Map.of("DIFY_API_KEY", KEY, "MAX_RETRIES", "0"));
                var process = command.redirectErrorStream(true).start();
                var out = new String(process.getInputStream().readAllBytes(), UTF_8);

                assertEquals(4, process.waitFor(), out);
                assertTrue(out.contains("DIFY_CA_FILE"), out);
            } finally {
                server.stop();
            }
        }

        @Test
        void endsAtCtrlCWithoutLosingARow() throws Exception {
            Files.writeString(folder.resolve("slow.csv"), "id,text\n1,one\n" + IntStream.range(2, 200)
                    .mapToObj(id -> id + ",[slow] " + id + "\n").collect(Collectors.joining()));
            var process = tool("run", "--demo", "-i", "slow.csv", "-o", "slow.jsonl", "-c", "1", "--grace", "0")
                    .redirectErrorStream(true).start();
            var results = folder.resolve("slow.jsonl");
            try (var lines = process.inputReader(UTF_8)) {
                while (!Files.exists(results) || Files.size(results) < 100) if (lines.ready()) lines.readLine();
                new ProcessBuilder("kill", "-INT", "" + process.pid()).start().waitFor();
                lines.lines().forEach(_ -> {});
            }

            assertEquals(130, process.waitFor());
            assertTrue(Files.readAllLines(results).size() < 199);
        }
    }
}
