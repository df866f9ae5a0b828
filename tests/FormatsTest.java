package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_16;
import static java.nio.charset.StandardCharsets.UTF_16LE;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Other input files: spreadsheets, JSON lines, columns with other names.
final class FormatsTest extends WholeCommand {
    /// Writes a cell of [#book] at a place such as `A1`: `n:12`, `s:text`, `b:1`, `e:#N/A`, `x:#N/A` of a formula, `f:result`, `f:` for a
    /// formula that was never computed, `g:` for one whose result is an empty text, `t:0` for a shared text, `i:` for
    /// an inline text that is missing, `p:` for one with a reading aid, `d:2026-11-01` for a date in words. A number or
    /// such a date may have a style, as in `n2:45322`.
    private static String cell(String place, String cell) {
        var type = cell.substring(0, cell.indexOf(':'));
        var value = cell.substring(type.length() + 1).replace("&", "&amp;").replace("<", "&lt;");
        return "<c r=\"" + place + "\"" + switch (type) {
            case "s" -> " t=\"inlineStr\"><is><t xml:space=\"preserve\">" + value + "</t></is>";
            case "b", "e", "t" -> " t=\"" + type.replace('t', 's') + "\"><v>" + value + "</v>";
            case "x" -> " t=\"e\"><f>A1</f><v>" + value + "</v>";
            case "i" -> " t=\"inlineStr\">";
            case "p" -> " t=\"inlineStr\"><is><r><t>" + value + "</t></r><rPh sb=\"0\" eb=\"1\"><t>kana</t></rPh></is>";
            case "d", "d2", "d4" -> " t=\"d\"" + (type.length() > 1 ? " s=\"" + type.substring(1) + "\"" : "") + "><v>"
                    + value + "</v>";
            case "g" -> " t=\"str\"><f>A1</f><v>" + value + "</v>";
            case "f" -> value.isEmpty() ? "><f>A1</f>" : " t=\"str\"><f>A1</f><v>" + value + "</v>";
            default -> (type.length() > 1 ? " s=\"" + type.substring(1) + "\"" : "") + "><v>" + value + "</v>";
        } + "</c>";
    }

    /// Writes a workbook. Its styles are: 1 percent, 2 date, 3 date and time, 4 time, 5 `00000`, 6 `[h]:mm`, 7 `0.00
    /// "days"`, 8 to 11 built-in East Asian dates and times; 12 to 16 see below.
    ///
    /// @param sheets for each name, its rows from the first one on, such as `s:id|s:text`
    static byte[] book(boolean is1904, Map<String, List<String>> sheets) throws IOException {
        var bytes = new ByteArrayOutputStream();
        var names = List.copyOf(sheets.keySet());
        var main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
        var office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
        var formats = List.of(0, 10, 14, 22, 20, 164, 46, 165, 27, 58, 32, 55, 166, 167, 168, 169, 11);
        try (var zip = new ZipOutputStream(bytes)) {
            var parts = new LinkedHashMap<String, String>();
            var type = "application/vnd.openxmlformats-officedocument.spreadsheetml.";
            parts.put("xl/sharedStrings.xml", "<sst xmlns=\"" + main
                    + "\"><si><t>zero</t></si><si><r><t>o</t></r><r><t>ne</t>"
                    + "</r><rPh sb=\"0\" eb=\"1\"><t>reading</t></rPh></si></sst>");
            parts.put("[Content_Types].xml",
                    "<Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\">"
                    + "<Override PartName=\"/xl/workbook.xml\" ContentType=\"" + type + "sheet.main+xml\"/>"
                    + "<Override PartName=\"/xl/sharedStrings.xml\" ContentType=\"" + type + "sharedStrings+xml\"/>"
                    + "<Override PartName=\"/xl/styles.xml\" ContentType=\"" + type + "styles+xml\"/></Types>");
            parts.put("xl/workbook.xml", "<workbook xmlns=\"" + main + "\" xmlns:r=\"" + office
                    + "\"><workbookPr date1904=\""
                    + is1904 + "\"/><sheets>" + each(names, (name, i) -> "<sheet name=\"" + name + "\" sheetId=\"" + i
                            + "\" r:id=\"r" + i + "\"/>") + "</sheets></workbook>");
            parts.put("xl/_rels/workbook.xml.rels",
                    "<Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/"
                    + "relationships\"><Relationship Id=\"texts\" Type=\"" + office + "/sharedStrings\" "
                    + "Target=\"sharedStrings.xml\"/>" + each(names, (_, i) -> "<Relationship Id=\"r" + i
                    + "\" Type=\"" + office
                            + "/worksheet\" Target=\"worksheets/sheet" + i + ".xml\"/>") + "</Relationships>");
            parts.put("xl/styles.xml", "<styleSheet xmlns=\"" + main + "\"><numFmts><numFmt numFmtId=\"164\" "
                    + "formatCode=\"00000\"/><numFmt numFmtId=\"165\" formatCode=\"0.00 &quot;days&quot;\"/>"
                    + "<numFmt numFmtId=\"166\" formatCode=\"[$-411]ggge&quot;年&quot;\"/>"
                    + "<numFmt numFmtId=\"167\" formatCode=\"aaaa\"/><numFmt numFmtId=\"168\" formatCode=\"e\"/>"
                    + "<numFmt numFmtId=\"169\" formatCode=\"G/通用格式\"/></numFmts>"
                    + "<cellXfs>" + formats.stream().map(id -> "<xf numFmtId=\"" + id + "\"/>")
                            .collect(Collectors.joining()) + "</cellXfs></styleSheet>");
            for (int i = 1; i <= names.size(); i++) {
                var data = new StringBuilder();
                var rows = sheets.get(names.get(i - 1));
                for (int row = 1; row <= rows.size(); row++) data.append(row(row, rows.get(row - 1)));
                parts.put("xl/worksheets/sheet" + i + ".xml", "<worksheet xmlns=\"" + main + "\"><sheetData>" + data
                        + "</sheetData><mergeCells><mergeCell ref=\"B2:B3\"/></mergeCells></worksheet>");
            }
            for (var part : parts.entrySet()) {
                zip.putNextEntry(new ZipEntry(part.getKey()));
                zip.write(part.getValue().getBytes(UTF_8));
            }
        }
        return bytes.toByteArray();
    }

    private static String each(List<String> names, BiFunction<String, Integer, String> text) {
        return IntStream.range(0, names.size()).mapToObj(i -> text.apply(names.get(i), i + 1))
                .collect(Collectors.joining());
    }

    /// Writes a row, in which cells without text are missing.
    private static String row(int number, String row) {
        if (row.isEmpty()) return "";
        var cells = row.split("\\|");
        return "<row r=\"" + number + "\">" + IntStream.range(0, cells.length).filter(i -> !cells[i].isEmpty())
                .mapToObj(i -> cell((char) ('A' + i) + "" + number, cells[i])).collect(Collectors.joining()) + "</row>";
    }

    static byte[] book(String... rows) throws IOException {
        return book(false, Map.of("Sheet1", List.of(rows)));
    }

    /// Replaces text in a part of a workbook by a regular expression. A part without text is left out.
    static byte[] edited(byte[] book, String part, String pattern, String replacement) throws IOException {
        var bytes = new ByteArrayOutputStream();
        try (var in = new ZipInputStream(new ByteArrayInputStream(book)); var out = new ZipOutputStream(bytes)) {
            for (var entry = in.getNextEntry(); entry != null; entry = in.getNextEntry()) {
                var text = new String(in.readAllBytes(), UTF_8);
                if (entry.getName().endsWith(part)) text = text.replaceAll(pattern, replacement);
                if (text.isEmpty()) continue;
                out.putNextEntry(new ZipEntry(entry.getName()));
                out.write(text.getBytes(UTF_8));
            }
        }
        return bytes.toByteArray();
    }

    private static byte[] zip(String entry) throws IOException {
        var bytes = new ByteArrayOutputStream();
        try (var zip = new ZipOutputStream(bytes)) {
            zip.putNextEntry(new ZipEntry(entry));
        }
        return bytes.toByteArray();
    }

    @Nested
    class FilesFromOtherPrograms {
        /// @param facts the rows as `line {cells}`, or parts of the error message
        record Case(String name, byte[] bytes, String... facts) {
            @Override
            public String toString() {
                return name;
            }
        }

        private static Case text(String name, String text, String... facts) {
            return new Case(name, text.getBytes(UTF_8), facts);
        }

        /// @param text JSON with `'` instead of `"`
        private static Case json(String name, String text, String... facts) {
            return text(name, Given.json(text), facts);
        }

        static List<Case> cases() throws IOException {
            var two = new LinkedHashMap<String, List<String>>();
            two.put("Cover", List.of());
            two.put("My data", List.of("", "|s:text|s:ID", "|s:a|n:7", "", "", "|s:b|s:8"));
            two.put("Other", List.of("s:id"));
            return List.of(
                    text("Excel.csv", "\uFEFFid;text\r\n1;\"a;b\"\r\n", "2 {id=1, text=a;b}"),
                    new Case("ExcelUnicode.txt", ("\uFEFFid\ttext\r\n1\tä\r\n").getBytes(UTF_16LE), "2 {id=1, text=ä}"),
                    new Case("ExcelMac.csv", "id;text\r1;ä\r".getBytes(Charset.forName("windows-1252")), ":2",
                            "--encoding"),
                    text("GoogleSheets.csv", "id,text\r\n1,\"a\nb\"\r\n2,c", "2 {id=1, text=a\nb}", "4 {id=2, text=c}"),
                    text("Numbers.csv", "id;text;\n1;a;\n;;\n", "2 {id=1, text=a}"),
                    text("pandas.csv", ",id,text\n0,1,a\n", "2 {id=1, text=a}"),
                    text("DuckDB.csv", "Id,text\n1,a\n", "2 {Id=1, text=a}"),
                    text("idLast.csv", "text,url,id\na,b,1\n", "2 {text=a, url=b, id=1}"),
                    text("noId.csv", "text,my key,kind\na,1,x\na,2,x\n", "--id-column " + Text.shell("my key"), "'#'"),
                    new Case("utf16.csv", "id,text\n1,é\n".getBytes(UTF_16), "2 {id=1, text=é}"),
                    json("pandas.jsonl", "{'id':1,'n':1.0,'b':true}\n\n{'id':'x','o':{'a':[1]},'b':null}\n",
                            "1 {id=1, n=1.0, b=true, o=}", "3 {id=x, n=, b=, o={\"a\":[1]}}"),
                    json("digits.jsonl",
                            "{'id':1234567890123456.78,'n':12345678901234567890,'o':1e3,'p':{'q':0.10}}\n"
                                    + "{'id':2,'n':1e10000,'o':{'n':-1e-10000}}\n",
                            "1 {id=1234567890123456.78, n=12345678901234567890, o=1000, p={\"q\":0.10}}",
                            "2 {id=2, n=1E+10000, o={\"n\":-1E-10000}, p=}"),
                    json("duplicateKey.jsonl", "{'id':1,'a':2}\n{'id':2,'a':{'b':1,'b':2}}\n", ":2"),
                    json("duplicateId.jsonl", "{'id':1,'id':2}\n", ":1"),
                    json("noId.jsonl", "{'key':1}\n{'key':2}\n", "noId.jsonl: no", "--id-column key"),
                    json("array.json", "[{'id':1,'n':1.10},{},{'o':[{'p':1e3}],'id':2,'n':'x\\ny'}]\n",
                            "1 {id=1, n=1.10, o=}", "3 {id=2, n=x\ny, o=[{\"p\":1000}]}"),
                    json("pretty.json",
                            "\uFEFF \n[\n  {\n    'id': 1,\n    'text': 'a'\n  },\n  {\n    'id': 2\n  }\n]",
                            "1 {id=1, text=a}", "2 {id=2, text=}"),
                    json("mongo.txt", "[{'_id':{'$oid':'65'},'id':7},\n{'_id':{'$oid':'66'},'id':8}]\n",
                            "1 {_id={\"$oid\":\"65\"}, id=7}", "2 {_id={\"$oid\":\"66\"}, id=8}"),
                    new Case("array16.json", "[{\"id\":1,\"text\":\"é\"}]".getBytes(UTF_16), "1 {id=1, text=é}"),
                    json("arrayTwice.json", "[{'id':1},\n\n{'id':1}]", "arrayTwice.json: item 2: ", "item 1"),
                    json("arrayOfTexts.json", "[{'id':1},[],'x']", "item 2: ", "the first of 2 problems"),
                    text("arrayOfNumbers.json", "[1, 2]", "item 1: ", "the first of 2 problems"),
                    text("arrayOfArrays.json", "[[1]]", "item 1: not a JSON object"),
                    text("arrayEmpty.json", "[]\n", "arrayEmpty.json: no rows"),
                    text("arrayEmpty.txt", " [ ]", "arrayEmpty.txt: no rows"),
                    text("brackets.csv", "[id],id\n1,2\n", "2 {[id]=1, id=2}"),
                    json("arrayNoId.json", "[{'key':1},{'key':2}]", "arrayNoId.json: no", "--id-column key"),
                    json("arrayCut.json", "[{'id':1},\n{'id':2}", "item 3: ",
                            "(line 2, column 9: Unexpected end-of-input)"),
                    json("arrayCutInItem.json", "[{'id':1},{'id':", "item 2: "),
                    json("twoArrays.json", "[{'id':1}]\n[{'id':2}]", "end of the JSON array"),
                    json("arrayKeyTwice.json", "[{'id':1,'id':2}]", "item 1: "),
                    new Case("arrayBytes.json", "[{\"id\":1},{\"id\":\"é\"}]".getBytes(Charset.forName("windows-1252")),
                            "arrayBytes.json:1: invalid UTF-8", "--encoding"),
                    json("broken.jsonl", "{'id':1}\n{'id':x}\n{'id':2}\n", ":2", "not valid JSON"),
                    json("unclosed.jsonl", "{'id':1}\n{'id':2,'x':\n{'id':3}\n", "unclosed.jsonl:2: ", "line 4"),
                    json("noObject.jsonl", "{'id':1}\n{'id':2}\nnone\n", "noObject.jsonl:3: "),
                    text("deep.jsonl", "{\"id\":1}\n{\"id\":" + "[".repeat(2000) + "]".repeat(2000) + "}\n", ":2",
                            "1,000 levels"),
                    text("deep.json", "[{\"id\":1},{\"id\":" + "{\"a\":".repeat(2000) + "1" + "}".repeat(2001) + "]",
                            "item 2", "1,000 levels"),
                    json("exponent.jsonl", "{'id':1}\n{'id':1e99999999999}\n", ":2", "exponent"),
                    json("twice.jsonl", "{'id':1}\n{'id':1}\n", ":2", "line 1"),
                    new Case("numbers.xlsx", book("s:id|s:x", "n:12.0|n:0.30000000000000004", "n:1E+20|n1:0.25",
                            "n5:701|n7:3.5", "b:1|s: _x0041_ "), "2 {id=12, x=0.3}",
                            "3 {id=100000000000000000000, x=0.25}", "4 {id=00701, x=3.5}", "5 {id=true, x= A }"),
                    new Case("dates.xlsx", book("s:id|s:x", "n:1|n2:45322", "n:2|n3:45322.572916666664", "n:3|n4:0.5",
                            "n:4|n6:1.5"), "2 {id=1, x=2024-01-31}", "3 {id=2, x=2024-01-31T13:45:00}",
                            "4 {id=3, x=12:00:00}", "5 {id=4, x=1.5}"),
                    new Case("dates1904.xlsx", book(true, Map.of("S", List.of("s:id|s:x", "n:1|n2:43860"))),
                            "2 {id=1, x=2024-01-31}"),
                    new Case("formulas.xlsx", book("s:id|s:x", "n:1|f:sum", "n:2|g:"), "2 {id=1, x=sum}",
                            "3 {id=2, x=}"),
                    new Case("onlyEmptyResults.xlsx", book("s:id|s:x", "n:1|g:"), "2 {id=1, x=}"),
                    new Case("neverComputed.xlsx", book("s:id|s:x", "n:1|f:", "n:2|f:a"), "Sheet1!B2", "formula"),
                    new Case("digits.xlsx", book("s:id|s:x", "n:12345678901234567|n:1.2345678901234567E+16",
                            "n:12345678901234568.0|n:1234567890123456.78"),
                            "2 {id=12345678901234567, x=12345678901234567}",
                            "3 {id=12345678901234568, x=1234567890123460}"),
                    new Case("milliseconds.xlsx", book("s:id|s:x", "n:1|n3:45322.57291667824",
                            "n:2|n4:0.5000028935185185"), "2 {id=1, x=2024-01-31T13:45:00.001}",
                            "3 {id=2, x=12:00:00.25}"),
                    new Case("eastAsian.xlsx", book("s:id|s:x|s:y", "n:1|n8:45123|n9:45123", "n:2|n10:0.5|n11:0.5",
                            "n:3|n12:45123|n13:45123", "n:4|n14:45123|n15:45123", "n:5|n16:45123|n2:99999999"),
                            "2 {id=1, x=2023-07-16, y=2023-07-16}", "3 {id=2, x=12:00:00, y=12:00:00}",
                            "4 {id=3, x=2023-07-16, y=2023-07-16}", "5 {id=4, x=2023-07-16, y=45123}",
                            "6 {id=5, x=45123, y=99999999}"),
                    new Case("sharedTexts.xlsx", book("s:id|s:x", "t:0|t:1", "n:3|t:"), "2 {id=zero, x=one}",
                            "3 {id=3, x=}"),
                    new Case("textOutOfRange.xlsx", book("s:id|s:x", "n:1|t:2", "n:2|t:-1", "n:3|t:2000000000",
                            "n:4|t:a"), "Sheet1!B2", "the first of 4 problems"),
                    new Case("missingTexts.xlsx", book("s:id|s:x|s:y", "n:1|i:|s:a", "n:2|s:b|i:"),
                            "2 {id=1, x=, y=a}", "3 {id=2, x=b, y=}"),
                    new Case("datesInWords.xlsx", book("s:id|s:x", "n:1|d2:2026-11-01T00:00:00.000Z",
                            "n:2|d:2026-11-01T13:45:00", "n:3|d:2026-11-01", "n:4|d4:13:45:00"),
                            "2 {id=1, x=2026-11-01}", "3 {id=2, x=2026-11-01T13:45:00}", "4 {id=3, x=2026-11-01}",
                            "5 {id=4, x=13:45:00}"),
                    new Case("booleans.xlsx", book("s:id|s:x", "n:1|b:true", "n:2|b:false", "n:3|b:0"),
                            "2 {id=1, x=true}", "3 {id=2, x=false}", "4 {id=3, x=false}"),
                    new Case("readingAid.xlsx", book("s:id|s:x", "n:1|p:東京"), "2 {id=1, x=東京}"),
                    new Case("noCharacter.xlsx", book("s:id|s:x", "n:1|s:a_xFFFE_b"), "2 {id=1, x=a\uFFFEb}"),
                    new Case("columnBeyond.xlsx", edited(book("s:id", "n:1"), "sheet1.xml", "r=\"A2\"", "r=\"ZZZZZ2\""),
                            "16,384 columns"),
                    new Case("columnFarBeyond.xlsx", edited(book("s:id", "n:1"), "sheet1.xml", "r=\"A1\"",
                            "r=\"ZZZZZZZZ1\""), "16,384 columns"),
                    new Case("noNumber.xlsx", book("s:id|s:x", "n:1|n:abc", "n:2|b:maybe", "n:3|d:soon"), "Sheet1!B2",
                            "the first of 3 problems"),
                    new Case("unknownType.xlsx", edited(book("s:id|s:x", "n:1|b:1"), "sheet1.xml", "t=\"b\"", "t=\"x\""),
                            "Sheet1!B2"),
                    new Case("noTexts.xlsx", edited(book("s:id|s:x", "n:1|t:1"), "sharedStrings.xml", "(?s).+", ""),
                            "Sheet1!B2"),
                    new Case("noStyles.xlsx", edited(edited(book("s:id", "n:7"), "styles.xml", "(?s).+", ""),
                            "[Content_Types].xml", "<Override PartName=\"/xl/styles.*?/>", ""), "2 {id=7}"),
                    new Case("noPlaces.xlsx", edited(book("s:id|s:x", "n:1|s:a"), "sheet1.xml", " r=\"[A-Z]?\\d\"", ""),
                            "2 {id=1, x=a}"),
                    new Case("spaces.xlsx", book("s:id|s:x", "n: 12 |n2:\n45322\n"), "2 {id=12, x=2024-01-31}"),
                    new Case("rowBeyond.xlsx", edited(book("s:id", "n:1", "n:2"), "sheet1.xml", "(?<= r=\"A?)3",
                            "99999999"), "99999999", "1,048,576"),
                    new Case("entity.xlsx", edited(book("s:id", "n:1"), "sheet1.xml", "<v>1", "<v>&x;"),
                            "Excel workbook", "hint"),
                    new Case("errors.xlsx", book("s:id|s:x", "n:1|e:#N/A", "n:2|x:#REF!"), "Sheet1!B2", "#N/A",
                            "the first of 2 problems"),
                    new Case("mergedAndEmptyRows.xlsx", book("s:id|s:x", "n:1|s:a", "n:2", "", "", "", "", "", "n:3"),
                            "2 {id=1, x=a}", "3 {id=2, x=}", "9 {id=3, x=}"),
                    new Case("twoSheets.xlsx", book(false, two), "3 {text=a, ID=7}", "6 {text=b, ID=8}"),
                    new Case("twice.xlsx", book("s:id", "n:1", "", "", "n:1"), "Sheet1!A5", "Sheet1!A2"),
                    new Case("title.xlsx", book("s:Report", "", "s:id|s:x", "n:1"), "Sheet1!A1", "--header-row 3"),
                    new Case("damaged.xlsx", Arrays.copyOf(book("s:id"), 400), "Excel workbook", "hint"),
                    new Case("noName.xlsx", edited(book("s:id", "n:1"), "workbook.xml", "<sheet name=\"\\w+\"", "<sheet"),
                            "Excel workbook", "hint"),
                    new Case("open.ods", zip("mimetype"), "Excel workbook", ".xlsx"),
                    new Case("old.xls", HexFormat.of().parseHex("d0cf11e0a1b11ae1"), ".xls", "password", ".xlsx"));
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("cases")
        void areReadIfTheyContainATableOrElseRejected(Case one) throws IOException {
            var path = Files.write(folder.resolve(one.name), one.bytes);

            if (one.facts[0].matches("(?s)\\d+ \\{.*")) {
                try (var csv = Csv.open(path, Csv.Shape.DEFAULT)) {
                    assertEquals(List.of(one.facts), Given.rows(csv).stream()
                            .map(row -> row.line() + " " + row.inputs()).toList());
                }
                return;
            }
            var problem = assertThrows(Unusable.class, () -> Index.of(Csv.open(path, Csv.Shape.DEFAULT), _ -> {}));
            assertEquals(Exit.UNUSABLE, problem.exit);
            for (var fact : one.facts)
                assertTrue(problem.text().contains(WholeCommand.quotedHere(fact)), problem.text());
            assertFalse(problem.getMessage().matches("(?s).*(Exception|Index |null|com\\.|Stream).*"), problem.getMessage());
        }

        /// A reader of XML that another library brings is not used.
        @Tag("slow")
        @Test
        void areReadWithJavasOwnReaderOfXml() throws Exception {
            Files.write(file("in.xlsx"), book("s:id|s:text", "n:1|s:a"));
            var words = Given.Tool.words("-Djavax.xml.stream.XMLInputFactory=no.such.Factory");
            words.addAll(List.of("check", "--demo", "-i", "in.xlsx"));

            ended(start(words, Map.of())).exits(0).shows("1 row");
        }

        @Test
        void haveTheirHiddenRowsReadAndReported() throws IOException {
            var book = edited(book("s:id", "n:1", "n:2", "n:3"), "sheet1.xml", "<row r=\"([134])\"",
                    "<row hidden=\"1\" r=\"$1\"");

            try (var csv = Csv.open(Files.write(folder.resolve("hidden.xlsx"), book), Csv.Shape.DEFAULT)) {
                assertEquals(List.of("1", "2", "3"), Given.rows(csv).stream().map(Row::id).toList());
                assertTrue(csv.notes().stream().anyMatch(note -> note.contains("2 hidden rows")), csv.notes()
                        .toString());
            }
        }

        @Test
        void haveTheSameRowsWhetherSavedAsAWorkbookOrACsv() throws IOException {
            var ids = new ArrayList<List<String>>();
            for (var name : List.of("sheet.xlsx", "utf-8.csv"))
                try (var in = FormatsTest.class.getResourceAsStream("/recorded/sheets/" + name);
                        var csv = Csv.open(Files.write(folder.resolve(name), in.readAllBytes()), Csv.Shape.DEFAULT)) {
                    ids.add(Given.rows(csv).stream().map(Row::id).toList());
                }

            assertFalse(ids.getFirst().isEmpty());
            assertEquals(ids.getLast(), ids.getFirst());
        }

        @Test
        void areCopiedOnceForSeveralReaders() throws IOException {
            try (var copies = new Original(folder.resolve("data.csv"), () -> 1L << 40)) {
                var copy = copies.copy(out -> out.write("text".getBytes(UTF_8)));

                try (var one = copy.get(); var other = copy.get()) {
                    assertEquals("te", new String(one.readNBytes(2), UTF_8));
                    assertEquals("text", new String(other.readAllBytes(), UTF_8));
                    assertEquals("xt", new String(one.readAllBytes(), UTF_8));
                }
                var full = assertThrows(Unusable.class, () -> copies.copy(_ -> {
                    throw new IOException("No space left on device");
                }));
                assertEquals(Exit.UNUSABLE, full.exit);
                assertFalse(full.hint.isEmpty());
            }
        }
    }

    @Nested
    class AFileThatIsNotATable {
        private final Simulated dify = new Simulated();

        /// `|` in a fact separates facts.
        @ParameterizedTest
        @CsvSource(delimiter = ';', quoteCharacter = '`', textBlock = """
                p.json  ; {"data":[{"id":1}]}~{"data":[{"id":2}]}             ; --rows /data ; document
                p.jsonl ; {"data":[{"id":1}]} {"data":[{"id":2}]}             ; --rows /data ; document
                p.json  ; [{"id":1}] [{"id":2}]                               ;              ; end of the JSON array
                p.json  ; {"data":[{"id":1}]} } junk                          ; --rows /data ; item 2, line 1
                p.json  ; {"a":[{"id":1}],"b":{"c":[{"id":2}]}}               ;              ; --rows /a, --rows /b/c
                p.json  ; {"id":{"0":1,"1":2},"text":{"0":"a","1":"b"}}       ;              ; orient="records"
                p.jsonl ; {"id":1,"text":"a"}~{"id":{"$oid":"1"},"text":"a"}  ;              ; :2, id, --id-column
                p.jsonl ; {"id":1,"key":[1],"text":"a"}                       ; --id-column key ; :1, id, --id-column
                """)
        void isRejectedWithTheReason(String name, String content, String options, String facts) throws IOException {
            Files.writeString(file(name), content.replace('~', '\n'));
            var typed = Stream.ofNullable(options).flatMap(text -> Stream.of(text.split(" "))).toArray(String[]::new);

            call(dify.settings(), words(List.of("check", "-i", path(name)), typed)).exits(2).mentions(facts.split(", "));
        }

        @Test
        void isRejectedWithTheCommandThatMakesItOne() throws IOException {
            try (var zip = new GZIPOutputStream(Files.newOutputStream(file("d.csv.gz")))) {
                zip.write("id,text\n1,a\n".getBytes(UTF_8));
            }
            call(dify.settings(), "check", "-i", path("d.csv.gz")).exits(2).hints("zcat " + path("d.csv.gz") + " >unpacked.csv");
            call(dify.settings(), "check", "-i", "https://example.org/d.csv").exits(2)
                    .hints("curl -O https://example.org/d.csv");
        }
    }

    @Nested
    class InputColumns {
        private final Simulated dify = new Simulated("--latency", "10ms");

        private void form(String... fields) {
            var form = Stream.of(fields).map(field -> "{'paragraph':{'variable':'" + field.replace("!", "")
                    + "','required':" + field.endsWith("!") + "}}").collect(Collectors.joining(","));
            dify.form("[" + form + "]");
        }

        /// The message is about the option, because no line of the file has the column twice.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                options                     | named
                --var q=1                   | --var q
                --map note=q                | --map note=
                --map note=x --map other=x  | --map other=
                --map note=x --var x=1      | --var x
                """)
        void anOptionThatFillsAColumnTwiceIsNamed(String options, String named) throws IOException {
            form("q");
            csv("id,q,note,other", "1,a,b,c");

            for (var call : List.of(dify.check(options.split(" ")), dify.run(options.split(" "))))
                call.exits(2).reports(named).omits("duplicate column");
            assertEquals(0, dify.runs());
        }

        /// In the form, `!` marks a required variable.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                header           | form         | option
                id,Question      | q            | --map COLUMN=q
                id,my-text       | My_Text!     | --map my-text=My_Text
                id,my text,MY-Text | my_text    | --map COLUMN=my_text
                id,q_1           | q1,Q 1       | --map COLUMN=q1 --map 'COLUMN=Q 1'
                id,colour        | color        | --map COLUMN=color
                id,a,note        | q!           | --map COLUMN=q
                id,note          | name         | --map COLUMN=name
                id,q             | q,tone!      | --var tone=VALUE
                id               | q            | --var q=VALUE
                id,note          | id           | the workflow has no variables
                """)
        void areRejectedWithASuggestedOptionIfTheyMatchNoVariable(String header, String fields, String option)
                throws IOException {
            form(fields.split(","));
            csv(header, header.replaceAll("[^,]+", "1"));

            dify.check().exits(2).mentions(option);
            dify.run().exits(2).mentions(option);
            assertEquals(0, dify.bodies("/run").size());
            dify.run("--allow-unmapped").exits(fields.contains("!") ? 3 : 0); // Dify refuses this row
            assertEquals(1, dify.bodies("/run").size());
        }

        /// A select can only get a constant if each column has other values.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                header    | cells      | option
                id,q,Type | 1,a,x      | --var tone=VALUE
                id,q,Type | 1,a,formal | --map Type=tone
                id,q,A,B  | 1,a,up,up  | --map COLUMN=tone
                """)
        void areSuggestedForASelectOnlyIfTheirValuesAreItsOptions(String header, String cells, String option)
                throws IOException {
            dify.form("[{'text-input':{'variable':'q'}},{'select':{'variable':'tone','required':true,"
                    + "'options':['formal','up']}}]");
            csv(header, cells);

            var check = dify.check().exits(2).shows(option);

            if (option.startsWith("--var")) check.shows("\"formal\", \"up\"");
            if (!option.equals("--map COLUMN=tone")) check.omits("COLUMN");
            call(dify.settings(), words(List.of("run", "-i", file("data.csv").toString(), "-o",
                    file("results.jsonl").toString()), option.replace("VALUE", "up").replace("COLUMN", "B").split(" ")))
                    .exits(0);
            assertEquals(1, dify.runs());
        }

        /// In a spreadsheet, a title often has a line break, and is shown with a space.
        @ParameterizedTest
        @ValueSource(strings = {"Frage (bitte kurz)", "Frage\n(bitte  kurz)"})
        void areFoundIfTheirLineBreaksAreTypedAsSpaces(String typed) throws IOException {
            form("q");
            csv("\"Ticket\nno\",\"Frage\n(bitte  kurz)\"", "7,a");

            dify.run("--map", typed + "=q", "--id-column", "Ticket no").exits(0);
            dify.run().exits(0).says("Nothing to do");

            assertEquals(1, dify.runs());
            dify.run("--map", typed + "=").exits(2).reports("q was \"a\", now missing");
            ofBatch("compare", "results.jsonl", "-i", file("data.csv").toString(), "--expect", typed + "=/answer")
                    .omits("no column");
        }

        @Test
        void areNotFoundBySpacesIfTwoDifferOnlyInThese() throws IOException {
            form("q");
            csv("id,\"a\nb\",a  b", "7,x,y");

            dify.run("--map", "a b=q").exits(2).reports("a b=", "no column");
            dify.run("--map", "a  b=q").exits(0);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                header                                        | similar
                id,Q1,Was ist Ihre Frage?,Q3_1,Q2. Kategorie  | Was ist Ihre Frage?
                id,frage (metadata),Frage (bitte kurz),Quelle | frage (metadata)", "Frage (bitte kurz)
                id,Kundenfragen,Qu                            | Kundenfragen
                id,Q1,Text                                    | ''
                """)
        void areSimilarIfTheyHaveAWordOfTheLabelInCommon(String header, String similar) throws IOException {
            dify.form("[{'paragraph':{'variable':'q','label':'Frage','required':true}}]");
            csv(header, header.replaceAll("[^,]+", "1"));

            var check = dify.check().exits(2).shows("--map COLUMN=q");

            if (similar.isEmpty()) check.omits("similar");
            else check.shows("similar: \"" + similar + "\"\n");
        }

        /// The export of a database often has no header.
        @ParameterizedTest
        @ValueSource(strings = {"data.csv", "data.xlsx"})
        void areNamedByLettersIfTheFileHasNoHeader(String name) throws IOException {
            form("q");
            Files.write(file(name), name.endsWith("csv") ? "7,Where?\n8,When?\n8,B\nA,B\n".getBytes(UTF_8)
                    : book("n:7|s:Where?", "n:8|s:When?", "n:8|s:B", "s:A|s:B"));
            var run = List.of("run", "-i", file(name).toString(), "-o", output(), "--header-row", "0");

            call(dify.settings(), words(run)).exits(2).says("\"id\"", "A, B").hints("--id-column", "#");
            call(dify.settings(), words(run, "--id-column", "A", "--map", "B=q")).exits(2).says("duplicate");
            call(dify.settings(), words(run, "--id-column", "#", "--map", "B=q")).exits(0);

            assertEquals(List.of("1 Where?", "2 When?", "3 B", "4 B"), results().stream().map(line ->
                    line.path("id").asText() + " " + line.at("/inputs/q").asText()).sorted().toList());
            call(dify.settings(), "run", "-i", file(name).toString(), "-o", output(), "--header-row", "1").exits(2)
                    .says("--header-row 0");
            call(dify.settings(), "run", "-i", file(name).toString(), "-o", output()).exits(0).says("Nothing to do");
        }

        @Test
        void cannotBeMappedToVariablesThatTheWorkflowLacks() throws IOException {
            form("q", "extra");
            csv("id,q,Note", "1,a,b");

            dify.line("run --map extra=Note").exits(2).hints("--map Note=extra");
            dify.line("run --map Note=extras").exits(2).says("\"extras\"", "\"extra\"");
            dify.line("run --var extras=b").exits(2).says("\"extras\"", "\"extra\"");
            dify.line("run --map Note=other").exits(2).says("\"other\"", "\"q\", \"extra\"")
                    .hints("--allow-unmapped");
            dify.check("--map", "q=other").exits(2).shows("\"other\"", "\"q\", \"extra\"");
            assertEquals(0, dify.runs());
        }

        @Test
        void areListedInANoteIfUnmatchedExceptTheIdColumn() throws IOException {
            form("q", "extra");
            csv("id,q,other", "1,a,b");

            var notes = dify.run().exits(0).notes().toString();

            assertTrue(notes.contains("\"other\"") && notes.contains("\"extra\"") && !notes.contains("\"id\""), notes);
        }

        @Test
        void areMappedAndAddedByOptionInRequestsAndResults() throws IOException {
            form("q", "tone");
            csv("Key,Frage", "1,a", "2,b");
            var options = new String[] {"--id-column", "key", "--map", "Frage=q", "--var", "tone=x=y"};

            var shown = dify.check(words(List.of("--show", "1"), options)).shows("\"q\":\"a\",\"tone\":\"x=y\"");

            assertTrue(shown.out().lines().anyMatch(line -> line.matches(" +Frage +q .*")), shown.out());
            dify.run(options).exits(0);

            assertEquals(2, dify.bodies("/run").stream()
                    .filter(body -> body.contains("\"tone\":\"x=y\"")).count());
            assertEquals("{\"Key\":\"2\",\"q\":\"b\",\"tone\":\"x=y\"}", result("2").path("inputs").toString());
            assertEquals("succeeded=2", status(), "the choices are remembered");
            var before = events("session").getFirst().path("choices");
            assertEquals(List.of("Key", "q", "x=y"), Stream.of("/id_column", "/map/Frage", "/vars/tone")
                    .map(place -> before.at(place).asText()).toList());

            dify.run().exits(0);
            assertEquals(2, dify.runs());
            dify.run("--var", "tone=z", "--rerun-changed").exits(0);

            assertEquals(4, dify.runs());
            assertEquals("z", result("2").path("inputs").path("tone").asText());
            for (var other : List.of("--id-column=Frage", "--query-column=Frage"))
                dify.run(other).exits(2).reports("results.jsonl.log").hints();
        }

        @Test
        void areCheckedBeforeAFreshStartMovesTheBatchAside() throws IOException {
            rows(1);
            dify.run().exits(0);
            var before = contents();

            form("other!");
            dify.run("--fresh").exits(2);
            dify.form("[{'number':{'variable':'text'}}]");
            dify.run("--fresh").exits(2).says("line 2, id 1");
            dify.app.delete(KEY);
            dify.run("--fresh").exits(4);

            assertEquals(before, contents());
            assertEquals(1, dify.runs());
        }

        @Test
        void haveControlCharactersReplacedInHints() throws IOException {
            csv("\u0001]0;x\u0007key,text", "1,a", "2,a");

            var call = dify.run().exits(2).hints("--id-column " + Text.shell("#"), "key");

            assertTrue(call.err().codePoints().noneMatch(c -> c != '\n' && Character.isISOControl(c)), call.err());
        }

        @Test
        void canBeMappedAgainAfterTheCsvWasChanged() throws IOException {
            form("q", "tone", "lang");
            csv("id,Frage", "1,a");
            dify.run("--map", "Frage=q", "--var", "tone=warm", "--var", "lang=de").exits(0);

            csv("id,Question,tone", "1,a,cold"); // one column was renamed, and one was added
            for (var command : List.of("run", "status", "export")) {
                var words = words(List.of(command, "-i", input(), "-o", output()), command.equals("export")
                        ? new String[] {path("out.csv")} : new String[0]);
                call(dify.settings(), words).exits(2).hints("--map Frage=");
                call(dify.settings(), words(List.of(words), "--map", "Question=q")).exits(2).hints("--var tone");
            }
            assertEquals(1, dify.runs());

            dify.line("run --map Question=q --var tone --var lang= --rerun-changed").exits(0);

            assertEquals("{\"id\":\"1\",\"q\":\"a\",\"tone\":\"cold\",\"lang\":\"\"}", result("1").path("inputs")
                    .toString());
            assertEquals("succeeded=1", status(), "the new choices are remembered");

            dify.line("run --map Question= --map Frage= --var lang --rerun-changed --allow-unmapped").exits(0);

            assertEquals("{\"id\":\"1\",\"Question\":\"a\",\"tone\":\"cold\"}", result("1").path("inputs").toString());
            assertEquals(3, dify.runs());
            var choices = events("session").getLast().path("choices");
            assertTrue(choices.path("map").isEmpty() && choices.path("vars").isEmpty(), choices.toString());
        }

        @Test
        void idColumnsThatDifferOnlyInCaseAreDistinguished() throws IOException {
            csv("ID,id,text", "1,2,a");
            dify.run("--id-column", "ID").exits(0);

            dify.run("--id-column", "id").exits(2).reports("results.jsonl.log");

            dify.run("--id-column", "ID").exits(0);
            csv("ID,text", "1,a");
            dify.run("--id-column", "id", "--keep-changed").exits(0);
        }

        @Test
        void aRenamedWorksheetIsReadIfItsNewNameIsGiven() throws IOException {
            var cells = List.of("s:id|s:text", "n:1|s:a");
            var words = List.of("run", "-i", path("data.xlsx"), "-o", output());
            Files.write(file("data.xlsx"), book(false, Map.of("Old", cells)));
            call(dify.settings(), words(words)).exits(0);

            var more = List.of(words(cells, "n:2|s:b"));
            Files.write(file("data.xlsx"), book(false, Map.of("New", more, "Other", List.of("s:id"))));
            call(dify.settings(), words(words)).exits(2).hints("--sheet").says("New");

            call(dify.settings(), words(words, "--sheet", "New")).exits(0);
            call(dify.settings(), words(words)).exits(0);
            call(dify.settings(), words(words, "--sheet", "Other")).exits(2);
            assertEquals(2, dify.runs());
        }

        @Test
        void areNotConfusedWithVariablesOfTheSameNameInAnExport() throws IOException {
            form("tone", "lang");
            csv("id,lang", "1,warm");
            dify.run("--map", "lang=tone", "--var", "lang=de").exits(0);

            for (var name : List.of("out.csv", "out.xlsx")) {
                ofBatch("export", path(name)).exits(0);
                try (var csv = Csv.open(file(name), Csv.Shape.DEFAULT)) {
                    var inputs = Given.rows(csv).getFirst().inputs();
                    assertEquals(List.of("1", "warm", "de", "succeeded"), Stream.of("id", "lang", "var.lang", "status")
                            .map(inputs::get).toList(), inputs.toString());
                }
            }
        }

        @Test
        void keepTheirWorkbookValuesFromTheRunToTheExport() throws Exception {
            form("id", "text", "n");
            var book = Files.write(file("data.xlsx"), book("s:id|s:text|s:n", "n5:1|s: =1+1 |n:0.5", "",
                    "s:b|s:x<y\n+2 [fail]|n:7")).toString();

            call(dify.settings(), "run", "-i", book, "-o", output(), "--retry-failed-runs", "never").exits(3);
            call(dify.settings(), "retry", "-i", book, "-o", output()).exits(0);
            call(Map.of(), "export", "-i", book, "-o", output(), path("out.xlsx")).exits(0);

            try (var csv = Csv.open(file("out.xlsx"), Csv.Shape.DEFAULT)) {
                var rows = Given.rows(csv).stream().map(row -> List.copyOf(row.inputs().values())).toList();
                assertEquals(List.of("00001", " =1+1 ", "0.5"), rows.getFirst().subList(0, 3));
                assertEquals(List.of("b", "x<y\n+2 [fail]", "7"), rows.getLast().subList(0, 3));
                assertTrue(rows.stream().allMatch(row -> row.contains("succeeded")), rows.toString());
            }
            var sheet = new String(new ZipFile(file("out.xlsx").toFile()).getInputStream(new ZipEntry(
                    "xl/worksheets/sheet1.xml")).readAllBytes(), UTF_8);
            assertFalse(sheet.contains("<f>"));
            assertTrue(sheet.contains("state=\"frozen\""), sheet);
            var printed = UserFilesTest.python("""
                    import openpyxl, sys
                    rows = openpyxl.load_workbook(sys.argv[1]).active.iter_rows(values_only=True)
                    print([[str(c) for c in r[:3]] for r in rows])""", file("out.xlsx"));
            assertTrue(printed.contains("[['id', 'text', 'n'], ['00001', ' =1+1 ', '0.5'], ['b', 'x<y\\n+2 [fail]', '7']]"),
                    printed);
        }

        @Test
        void haveOnlyControlCharactersReplacedInAnExportedWorkbook() throws Exception {
            csv("id,text", "1,_x000D_ and _x0041_ \u0007\uFFFF\u0001\u001f_x000d_");
            dify.run().exits(0);

            ofBatch("export", path("out.xlsx")).exits(0);

            try (var csv = Csv.open(file("out.xlsx"), Csv.Shape.DEFAULT)) {
                var inputs = Given.rows(csv).getFirst().inputs();
                for (var column : List.of("text", "output.text"))
                    assertEquals("_x000D_ and _x0041_ \uFFFD\uFFFD\uFFFD\uFFFD_x000d_", inputs.get(column));
            }
        }

        @Test
        void anOutputFileWithTheWrongExtensionIsRejected() throws IOException {
            rows(1);
            for (var name : List.of("r.csv", "r.TSV", "r.xls", "r.xlsx"))
                call(dify.settings(), "run", "-i", input(), "-o", path(name)).exits(2).hints();
            dify.run().exits(0);
            call(Map.of(), typed("export", path("out.json"))).exits(2);
            ofBatch("status", "--sheet", "x").exits(2);
        }
    }
}
