package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.csv;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// The workflow's form: every cell's value, and our verdict compared with the verdicts of real servers.
class FormTest {

    /// Has the forms of recorded apps that no recording contains, as `recorded/README.md` describes them.
    private static final Map<String, String> FORMS = Map.of(
            "needs", """
                    [{"number":{"variable":"num","required":true}},
                     {"select":{"variable":"pick","required":true,"options":["a","b"]}},
                     {"checkbox":{"variable":"yes","required":true}}]""",
            "needs_file", """
                    [{"file":{"variable":"doc","required":true,"allowed_file_types":["document","image"]}},
                     {"file-list":{"variable":"docs","required":true,"allowed_file_types":["document","image"],
                      "max_length":3}}]""",
            "defaults", """
                    [{"text-input":{"variable":"text","required":false,"default":"hello"}},
                     {"number":{"variable":"num","required":false,"default":"7"}},
                     {"select":{"variable":"pick","required":false,"options":["a","b"],"default":"b"}},
                     {"checkbox":{"variable":"yes","required":false,"default":true}}]""",
            "bad_default", """
                    [{"select":{"variable":"pick","required":false,"options":["a","b"],"default":""}}]""",
            "jsonvar", """
                    [{"json_object":{"variable":"meta","required":false}}]""",
            "custom_file", """
                    [{"file":{"variable":"doc","required":false,"allowed_file_types":["custom"],
                      "allowed_file_extensions":[".xyz"],"allowed_file_upload_methods":["local_file"]}}]""");

    /// Finds values that we refuse on purpose although a server accepts them; see `docs/inputs.md`.
    private static final List<Pattern> STRICTER = Stream.of("number \"1.5e3\"", "number \"1_000\"", "number \"１２\"",
            "number 1e\\+300", "checkbox \"maybe\"", "checkbox 2", "checkbox 1.0", "json \\[\\]", "number empty",
            "checkbox empty", "list empty").map(Pattern::compile).toList();

    /// Only the server can know whether an address can be reached.
    private static final List<Pattern> UNKNOWABLE = Stream.of("answers 500", "nobody listens").map(Pattern::compile)
            .toList();

    private static Variable.Folders folders(Path folder, Path... more) throws IOException {
        return new Variable.Folders(folder, Stream.concat(Stream.of(folder.toRealPath()), Stream.of(more))
                .toList());
    }

    static Form form(String fields, List<String> columns) {
        try {
            var parameters = Given.JSON.createObjectNode();
            parameters.set("user_input_form", Given.tree(fields));
            return Form.of(parameters, columns, new Variable.Reading(folders(Path.of("")), null, false, true));
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    private static List<String> faults(Form form, Csv csv, boolean isLenient) {
        return form.faults(csv, isLenient, Map.of()).stream().map(Inspection.Mismatch::text).toList();
    }

    @Nested
    @DisplayName("Compared with real servers")
    class RecordedInputValues {
        @TestFactory
        Stream<DynamicTest> areAcceptedOrRejectedAsTheyWereByDify() {
            var tests = new ArrayList<DynamicTest>();
            int left = 0;
            for (var version : Recorded.VERSIONS) {
                var cases = Recorded.cases(version);
                var forms = new HashMap<>(FORMS);
                forms.put("typed", Given.tree(cases.get("parameters_typed").getFirst().text())
                        .path("user_input_form").toString());
                for (var name : List.of("inputs_blocking", "inputs_more_blocking"))
                    for (var exchange : cases.get(name)) {
                        var test = test(exchange, forms.get(exchange.about().split(":")[0]));
                        if (test.isEmpty()) left++;
                        else tests.add(test.get());
                    }
            }
            IO.println("form: " + tests.size() + " recorded values compared, " + left + " that no cell can express");
            return tests.stream();
        }

        private Optional<DynamicTest> test(Recorded.Exchange exchange, String fields) {
            var about = exchange.about();
            var inputs = exchange.request().at("/body/inputs");
            if (fields == null || !inputs.isObject() || matches(UNKNOWABLE, about)) return Optional.empty();
            var cells = new LinkedHashMap<String, String>();
            for (var input : inputs.properties()) {
                var type = type(fields, input.getKey());
                var cell = cell(type, input.getValue(), exchange.version());
                // an empty cell is left out, which differs from the empty text recorded here
                if (cell.isEmpty() || cell.get().isBlank()
                        && !List.of("text-input", "paragraph", "number").contains(type)) return Optional.empty();
                cells.put(input.getKey(), cell.get());
            }
            var form = form(fields, List.copyOf(cells.keySet()));
            return Optional.of(DynamicTest.dynamicTest(exchange.version() + " " + about,
                    () -> compare(exchange, form, cells)));
        }

        private void compare(Recorded.Exchange exchange, Form form, Map<String, String> cells) {
            var csv = csv(cells.keySet().toArray(String[]::new));
            var wrong = new ArrayList<>(faults(form, csv, false)); // the server accepts unmatched names
            wrong.removeIf(fault -> !faults(form, csv, true).contains(fault) && !fault.contains("required"));
            cells.forEach((column, cell) -> {
                if (form.value(Given.row("r-1"), column, cell) instanceof Value.Invalid fault)
                    wrong.add(column + " " + fault.why());
            });
            if (matches(STRICTER, exchange.about())) assertFalse(wrong.isEmpty());
            else if (exchange.about().startsWith("bad_default")) return; // the column is missing, so we decide nothing
            else if (exchange.about().contains("select with a blank")) assertTrue(wrong.isEmpty()); // it is removed
            else assertEquals(exchange.status() == 200, wrong.isEmpty(), wrong + " for " + cells);
        }

        private static boolean matches(List<Pattern> patterns, String about) {
            return patterns.stream().anyMatch(pattern -> pattern.matcher(about).find());
        }

        private String type(String fields, String variable) {
            for (var item : Given.tree(fields))
                for (var field : item.properties())
                    if (field.getValue().path("variable").asText().equals(variable)) return field.getKey();
            return "";
        }

        /// Returns the cell that would send such a value, or empty if none does.
        private Optional<String> cell(String type, JsonNode value, String version) {
            boolean isNewer = !version.equals("1.9.2"), isFilled = value.isTextual() && !value.asText().isEmpty();
            return switch (type) {
                case "", "text-input", "paragraph" -> text(value, value.isTextual());
                case "select" -> text(value, isFilled);
                case "number" -> text(value, value.isTextual() || value.isNumber());
                case "checkbox" -> text(value, value.isBoolean() || isNewer && (value.isNumber() || value.isTextual()));
                case "json_object" -> value.isContainerNode() ? Optional.of(value.toString()) : Optional.empty();
                case "file" -> value.isObject() ? address(value) : text(value, isFilled);
                case "file-list" -> value.isArray() ? addresses(value) : text(value, isFilled);
                default -> Optional.empty();
            };
        }

        private static Optional<String> text(JsonNode value, boolean isCell) {
            return isCell ? Optional.of(value.asText()) : Optional.empty();
        }

        private Optional<String> addresses(JsonNode files) {
            var cells = files.valueStream().map(this::address).toList();
            return cells.stream().allMatch(Optional::isPresent)
                    ? Optional.of(cells.stream().map(Optional::get).collect(Collectors.joining(";")))
                    : Optional.empty();
        }

        /// We derive the kind from the file extension, so only such values can be compared.
        private Optional<String> address(JsonNode file) {
            var url = file.path("url").asText("");
            var kind = url.contains(".txt") ? "document" : url.contains(".mp3") ? "audio"
                    : url.contains(".xyz") ? "custom" : "";
            return file.path("transfer_method").asText("").equals("remote_url") && !url.isEmpty()
                    && (kind.isEmpty() || file.path("type").asText("").equals(kind))
                    ? Optional.of(url) : Optional.empty();
        }
    }

    /// Checks that the reason contains all of these facts, separated by `;`.
    private static void assertRefused(Value value, String facts) {
        var why = assertInstanceOf(Value.Invalid.class, value).why();
        for (var fact : facts.split(";")) assertTrue(why.contains(fact), fact + " in " + why);
    }

    @Nested
    class InputCells {
        private static final String FIELDS = """
                [{"text-input":{"variable":"name","label":"Your name","required":true,"max_length":5}},
                 {"paragraph":{"variable":"body_text","required":false}},
                 {"number":{"variable":"num","required":false,"max_length":48,"options":[]}},
                 {"checkbox":{"variable":"flag","required":false}},
                 {"select":{"variable":"tone","required":false,"options":["formal","casual"]}},
                 {"json_object":{"variable":"meta","required":false}},
                 {"external_data_tool":{"variable":"ext","required":false}}]""";

        @ParameterizedTest(name = "{0} = {1} is sent as {2}")
        @CsvSource(delimiter = '|', textBlock = """
                name      | '007'                  | Str[text=007]
                name      | ' a '                  | Str[text= a ]
                name      | ''                     | Str[text=]
                name      | '😀😀😀😀😀'              | Str[text=😀😀😀😀😀]
                body_text | '1e5'                  | Str[text=1e5]
                num       | '12345678901234567890' | Raw[json=12345678901234567890]
                num       | ' 007 '                | Raw[json=7]
                num       | '-.5'                  | Raw[json=-0.5]
                num       | '1.50'                 | Raw[json=1.50]
                num       | ''                     | None[]
                num       | '  '                   | None[]
                flag      | 'Yes'                  | Raw[json=true]
                flag      | ' OFF '                | Raw[json=false]
                flag      | '0'                    | Raw[json=false]
                tone      | ''                     | None[]
                tone      | ' '                    | None[]
                tone      | 'casual'               | Str[text=casual]
                tone      | ' casual\u00A0'        | Str[text=casual]
                meta      | '{"a": [1, 2.50]}'     | Raw[json={"a": [1, 2.50]}]
                ext       | ''                     | None[]
                """)
        void areConvertedToTheTypeOfTheirVariable(String column, String cell, String value) {
            var form = form(FIELDS, List.of(column));

            assertEquals(value, form.value(Given.row("r-1"), column, cell).toString());
        }

        @ParameterizedTest(name = "{0} = {1} is refused: {2}")
        @CsvSource(delimiter = '|', textBlock = """
                name | '日本語日本語'   | 6;5
                num  | '1,000'        | number
                num  | 'NaN'          | number
                num  | '1e5'          | number
                num  | '0x10'         | number
                num  | '1-2'          | number
                num  | '+.'           | number
                flag | 'maybe'        | true;false;yes
                tone | 'Formal'       | "formal";"casual";did you mean
                meta | '[1]'          | JSON object
                meta | '{"a":1} x'    | JSON object
                meta | '{"a":1} {}'   | JSON object
                meta | '{"a":{}'      | JSON object
                meta | '{"a":NaN}'    | JSON object
                meta | '{"a":1e9999999999}' | JSON object
                meta | '{a:1}'        | JSON object
                ext  | 'x'            | external_data_tool
                """)
        void areRejectedWithTheReasonIfInvalid(String column, String cell, String facts) {
            var value = form(FIELDS, List.of(column)).value(Given.row("r-1"), column, cell);

            assertRefused(value, facts);
        }

        @Test
        void areMatchedToAVariableByItsLabelInTheHeader() {
            var form = form(FIELDS, List.of("Your name"));

            assertEquals(Map.of("name", new Value.Str("Ann")),
                    form.values(new Row(0, 2, "1", new LinkedHashMap<>(Map.of("Your name", "Ann")))));
        }

        @Test
        void aCheckPrintsNoControlCharactersFromLabelsOrTheServer() {
            var form = form("[{\"evil\\u001b[31m\":{\"variable\":\"x\"}}]", List.of("id", "x"));
            var row = new Row(0, 2, "1", new TreeMap<>(Map.of("id", "1", "x", "")));
            var inspector = new Inspection.Inspector(csv("id", "x"), form);
            inspector.accept(row);
            var out = new StringWriter();

            CheckView.print(inspector.inspection(false),
                    new ServerInfo("app\u001b[2J", AppKind.WORKFLOW, "1.14.2\u009b31m"),
                    Optional.empty(), new PrintWriter(out));

            assertTrue(out.toString().contains("evil"), out.toString());
            assertEquals(List.of(), out.toString().lines()
                    .filter(line -> line.chars().anyMatch(Character::isISOControl)).toList());
        }
    }

    @Nested
    class CellsForFiles {
        @TempDir Path folder;

        private Value read(String type, String cell, String rules) {
            return read(type, cell, rules, folder);
        }

        private Value read(String type, String cell, String rules, Path base, Path... more) {
            try {
                var parameters = Given.tree("{\"user_input_form\":[{\"" + type
                        + "\":{\"variable\":\"doc\",\"required\":false," + rules
                        + "}}],\"system_parameters\":{\"image_file_size_limit\":1,\"file_size_limit\":1}}");
                return Form.of(parameters, List.of("doc"), new Variable.Reading(folders(base, more), null, false, false))
                        .value(Given.row("r-1"), "doc", cell);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        @Test
        void areResolvedAgainstTheFolderOfTheCsv() throws IOException {
            Files.writeString(folder.resolve("a b.pdf"), "x");

            assertEquals(new Value.Local("document", "a b.pdf", folder.resolve("a b.pdf").toRealPath()),
                    read("file", "@a b.pdf", "\"allowed_file_types\":[\"document\"]"));
        }

        @Test
        void mayContainSeveralFilesAsAJsonArray() {
            assertEquals(read("file-list", "https://a.example/1.pdf; https://a.example/2.pdf", "\"max_length\":3"),
                    read("file-list", "[\"https://a.example/1.pdf\",\"https://a.example/2.pdf\"]", "\"max_length\":3"));
            assertInstanceOf(Value.Invalid.class, read("file-list", "[{\"url\":\"https://a.example/1.pdf\"}]",
                    "\"max_length\":3"));
            assertInstanceOf(Value.None.class, read("file-list", "[]", "\"max_length\":3"));
        }

        /// `data` is the CSV's folder; `secret.txt` and `other` are next to it.
        @ParameterizedTest(name = "{0} is taken: {1}, with --files other: {2}")
        @CsvSource(delimiter = '|', textBlock = """
                @own.txt             | true  | true
                @deep/../own.txt     | true  | true
                @deep/inner.txt      | true  | true
                @../data/own.txt     | true  | true
                @DATA/own.txt        | true  | true
                @to-own.txt          | true  | true
                @../secret.txt       | false | false
                @DATA/../secret.txt  | false | false
                @to-secret.txt       | false | false
                @out/secret.txt      | false | false
                @../data2/near.txt   | false | false
                @../other/more.txt   | false | true
                @to-other.txt        | false | true
                @out/other/more.txt  | false | true
                """)
        void areRejectedIfTheirPathIsOutsideTheAllowedFolders(String cell, boolean taken, boolean more)
                throws IOException {
            var data = Files.createDirectories(folder.resolve("data/deep")).getParent();
            var other = Files.createDirectories(folder.resolve("other")).toRealPath();
            Files.createDirectories(folder.resolve("data2"));
            for (var name : List.of("data/own.txt", "data/deep/inner.txt", "secret.txt", "data2/near.txt",
                    "other/more.txt")) Files.writeString(folder.resolve(name), "x");
            Files.createSymbolicLink(data.resolve("to-own.txt"), Path.of("own.txt"));
            Files.createSymbolicLink(data.resolve("to-secret.txt"), Path.of("../secret.txt"));
            Files.createSymbolicLink(data.resolve("to-other.txt"), other.resolve("more.txt"));
            Files.createSymbolicLink(data.resolve("out"), folder);
            var path = cell.replace("DATA", data.toString());

            var alone = read("file", path, "\"allowed_file_types\":[\"document\"]", data);
            var both = read("file", path, "\"allowed_file_types\":[\"document\"]", data, other);

            assertEquals(taken, alone instanceof Value.Local, alone::toString);
            assertEquals(more, both instanceof Value.Local, both::toString);
            if (alone instanceof Value.Invalid fault) assertTrue(fault.why().contains("--files DIR"), fault.why());
        }

        @Test
        void aLinkedFileIsSentUnderTheNameInTheCell() throws IOException {
            Files.writeString(folder.resolve("4711"), "x");
            Files.createSymbolicLink(folder.resolve("report.pdf"), Path.of("4711"));

            assertEquals(new Value.Local("document", "report.pdf", folder.resolve("4711").toRealPath()),
                    read("file", "@report.pdf", "\"allowed_file_types\":[\"document\"]"));
        }

        @ParameterizedTest(name = "{0} under {1}: {2}")
        @CsvSource(delimiter = '|', textBlock = """
                @none.pdf              | "allowed_file_types":["document"] | none.pdf;does not exist
                @.                     | "allowed_file_types":["document"] | does not exist
                https://h/a.mp3        | "allowed_file_types":["document"] | document;audio
                ftp://h/a.pdf          | "allowed_file_types":["document"] | URL
                a.pdf                  | "allowed_file_types":["document"] | URL;@path
                https://h/a.exe        | "allowed_file_types":["custom"],"allowed_file_extensions":[".zip"] | zip;.exe
                https://h/a.pdf        | "allowed_file_types":["document"],"allowed_file_upload_methods":["local_file"] | not a URL
                @x.pdf                 | "allowed_file_types":["document"],"allowed_file_upload_methods":["remote_url"] | not an uploaded
                @a.pdf;@b.pdf          | "allowed_file_types":["document"] | one file
                https://h/a; https://h | "allowed_file_types":["document"] | one file
                """)
        void areRejectedWithTheReasonIfTheirFileIsInvalid(String cell, String rules, String facts) {
            assertRefused(read("file", cell, rules), facts);
        }

        @Test
        void aListIsSplitAtSemicolonsAndLimitedInLength() {
            var rules = "\"allowed_file_types\":[\"document\",\"image\"],\"max_length\":2";

            assertEquals(new Value.Several(List.of(Value.file("document", "remote_url", "url", "https://h/a.pdf"),
                    Value.file("image", "remote_url", "url", "https://h/b.png")), false),
                    read("file-list", "https://h/a.pdf; https://h/b.png", rules));
            assertRefused(read("file-list", "https://h/1.pdf;https://h/2.pdf;https://h/3.pdf", rules), "3 files;2");
        }

        @ParameterizedTest
        @CsvSource({"'',", "';',", "' ; ;',"})
        void aListOfSpacesAndSemicolonsContainsNoFile(String cell) {
            assertEquals(new Value.None(), read("file-list", cell, "\"max_length\":2"));
            assertRefused(read("file-list", cell, "\"required\":true"), "required");
        }

        @Test
        void aFileOverTheServersSizeLimitIsRejectedBeforeUpload() throws IOException {
            Files.write(folder.resolve("big.png"), new byte[(1 << 20) + 1]);

            assertRefused(read("file", "@big.png", "\"allowed_file_types\":[\"image\"]"), "1 MB");
        }
    }

    @Nested
    class NamesOfSavedFiles {
        @ParameterizedTest(name = "{0} / {1} / {2}")
        @CsvSource(delimiter = '|', textBlock = """
                r-1          | doc   | .txt      | r-1-doc-1.txt
                ../../etc/x  | a/b   | .txt      | -
                .x           | a     | .txt      | -
                日本          | out   | pdf       | 日本-out-1.pdf
                """)
        void stayInsideTheFolder(String id, String output, String extension, String name) {
            var made = Sender.FileSaver.fileName(id, output, 1, extension);

            assertFalse(made.contains("/") || made.contains("..") || made.startsWith("."), made);
            if (!name.equals("-")) assertEquals(name, made);
        }

        /// Writes a file with these bytes, to be named `a.b.txt`, into a folder.
        private static String named(Path folder, String bytes) throws IOException {
            var draft = Files.writeString(folder.resolve("draft"), bytes);
            var path = Sender.FileSaver.moveToFreeName(draft, folder.resolve("a.b.txt"));
            Files.deleteIfExists(draft);
            assertEquals(bytes, Files.readString(path));
            return path.getFileName().toString();
        }

        @Test
        void areUnusedOrThoseOfAnIdenticalFile(@TempDir Path folder) throws IOException {
            assertEquals("a.b.txt", named(folder, "one"));
            assertEquals("a.b~2.txt", named(folder, "two"));
            assertEquals("a.b.txt", named(folder, "one"));
            assertEquals("a.b~2.txt", named(folder, "two"));
            Files.createSymbolicLink(folder.resolve("a.b~3.txt"), Path.of("nowhere"));
            Files.createDirectory(folder.resolve("a.b~4.txt"));
            assertEquals("a.b~5.txt", named(folder, "three"));
            assertFalse(Files.exists(folder.resolve("nowhere")));
        }

        @Test
        void differForDifferentRows() {
            var ids = List.of("a/b", "a_b", "a b", "a?b", ".a", "_a", "x".repeat(200), "x".repeat(201));

            assertEquals(ids.size(), ids.stream().map(id -> Sender.FileSaver.fileName(id, "out", 1, ".txt")).distinct()
                    .count());
        }

        @Test
        void haveAtMost255Bytes() {
            for (var letter : List.of("x", "ß", "語", "𠮷")) {
                var made = Sender.FileSaver.fileName(letter.repeat(300), letter.repeat(300), 1_000_000,
                        letter.repeat(90));

                assertTrue(made.getBytes(java.nio.charset.StandardCharsets.UTF_8).length <= 255, made);
                assertFalse(made.contains("\uFFFD") || made.contains("?"), made);
            }
        }
    }
}
