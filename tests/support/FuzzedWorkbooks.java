package difyexec;

import difyexec.Fuzz.*;
import difyexec.FuzzedTables.*;
import org.apache.commons.compress.archivers.zip.ZipArchiveInputStream;
import org.dhatim.fastexcel.Workbook;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Fuzz.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Workbooks. The generator knows the cells of those that it leaves whole; of damaged ones, only a refusal or any rows
/// are expected.
///
/// @param others workbooks of another program, to damage
record FuzzedWorkbooks(List<byte[]> others) implements Target {
    private static final List<String> TEXTS = List.of("a", "x y", "é", "😀", "\"", "\n", "1", "007", "=1+1", "<&>", "'");
    private static final List<String> PIECES = List.of("<", ">", "/", "\"", "&", "&lt;", "&#0;", "&nope;", "<c>", "</c>",
            "<c r=\"ZZZZZ2\"><v>1</v></c>", "<c r=\"A99999999999\"/>", "<c r=\"\"/>", "<c r=\"A0\"><v>1</v></c>", "<c/>",
            "<c r=\"B2\" t=\"s\"><v>99999999</v></c>", "<c r=\"B2\" t=\"s\"><v>-1</v></c>", "t=\"s\"", "t=\"str\"",
            "t=\"inlineStr\"", "t=\"b\"", "t=\"d\"", "t=\"e\"", "t=\"zz\"", "s=\"99\"", "s=\"-1\"", "<v>1e9999</v>",
            "<v>1E99999999999</v>", "<v>NaN</v>", "<v/>", "<f>A1</f>", "<row r=\"2000000\">", "<row>", "</row>",
            "<mergeCell ref=\"A1:ZZZZZZ9\"/>", "<mergeCell ref=\"A1\"/>", "<mergeCell ref=\"\"/>", "<mergeCell/>", "\u0000",
            "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>", "&b;", "hidden=\"1\"", "state=\"hidden\"",
            "<rPh><t>x</t></rPh>", "<is><t>x</t></is>", "_xFFFE_", "_xD83D_", "9999999999999999999");

    private static final List<String> VALUES = List.of("", "0", "-1", "99999999", "99999999999999999999", "1e9999", "NaN",
            "s", "str", "inlineStr", "b", "d", "e", "n", "A1", "ZZZZZ2", "XFD1048576", "A1048577", "A1:ZZZZZ99", "true",
            "hidden", "2026-01-01T00:00:00", "#N/A", "yyyy-mm-dd", "[h]:mm", "general", "../x.xml", "http://x/y", " ");

    @Override
    public String name() {
        return "workbook";
    }

    /// Writes workbooks with openpyxl, which python3 must have.
    static List<byte[]> ofPython(Path folder) throws IOException, InterruptedException {
        var script = """
                import datetime, sys
                import openpyxl
                for n in range(8):
                    book = openpyxl.Workbook()
                    sheet = book.active
                    sheet.append(['a', 'b', 'c', 'd'])
                    for row in range(n + 1):
                        sheet.append(['text %d' % row, row * 1.5, row % 2 == 0, datetime.datetime(2026, 1, 1 + row)])
                    if n % 2:
                        sheet.merge_cells('B2:C2')
                        sheet['E2'] = '=B2+1'
                        sheet.row_dimensions[2].hidden = True
                    if n > 4:
                        book.create_sheet('Second').append(['x', None, u'\\u00e9'])
                    book.save(sys.argv[1] + '/openpyxl-%d.xlsx' % n)
                """;
        var process = new ProcessBuilder("python3", "-c", script, folder.toString()).inheritIO().start();
        if (process.waitFor() != 0)
            throw new Unusable("python3 cannot write workbooks: install openpyxl (pip install openpyxl)");
        var books = new ArrayList<byte[]>();
        for (int n = 0; n < 8; n++) books.add(Files.readAllBytes(folder.resolve("openpyxl-" + n + ".xlsx")));
        return books;
    }

    // ── Making ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Override
    public byte[] make(SplittableRandom random) throws IOException {
        // the seed comes first, so that `compare` makes the same cells again
        var seed = random.nextLong();
        boolean isWhole = chance(random, 30);
        var book = isWhole || others.isEmpty() || chance(random, 50) ? written(table(seed), seed)
                : oneOf(random, others);
        if (isWhole) return marked(book, seed);
        return chance(random, 85) ? withDamagedPart(random, book) : damaged(random, book);
    }

    /// Cells of a table, as texts, numbers and booleans. An empty text is no cell.
    private static List<List<Object>> table(long seed) {
        var random = new SplittableRandom(seed);
        int columns = 1 + random.nextInt(4);
        var table = new ArrayList<List<Object>>();
        table.add(List.copyOf(List.of("a", "b", "c", "d").subList(0, columns)));
        for (int row = random.nextInt(6); row >= 0; row--)
            table.add(Stream.generate(() -> cell(random)).limit(columns).toList());
        return table;
    }

    private static Object cell(SplittableRandom random) {
        return switch (random.nextInt(6)) {
            case 0 -> "";
            case 1 -> random.nextLong(-999_999_999_999_999L, 999_999_999_999_999L);
            case 2 -> BigDecimal.valueOf(random.nextInt(1_000_000), 1 + random.nextInt(5));
            case 3 -> random.nextBoolean();
            default -> text(random);
        };
    }

    /// A text with more than spaces and quotes: those alone are read as an empty cell at the end of a row.
    private static String text(SplittableRandom random) {
        var text = pieces(random, TEXTS, 4);
        return text.replace('"', ' ').isBlank() ? "" : text;
    }

    private static byte[] written(List<List<Object>> table, long seed) throws IOException {
        var out = new ByteArrayOutputStream();
        try (var book = new Workbook(out, "fuzz", "1.0")) {
            var sheet = book.newWorksheet("Sheet1");
            for (int row = 0; row < table.size(); row++) for (int column = 0; column < table.get(row).size(); column++)
                switch (table.get(row).get(column)) {
                    case Number number -> sheet.value(row, column, number);
                    case Boolean flag -> sheet.value(row, column, flag);
                    case Object text -> {
                        if (!text.equals("")) sheet.value(row, column, text.toString());
                    }
                }
            if (seed % 3 == 0) sheet.range(1, 0, 1, 2).merge();
        }
        return out.toByteArray();
    }

    /// The zip file with the seed as its comment, by which [#compare] knows that it is whole.
    private static byte[] marked(byte[] zip, long seed) {
        var marked = ByteBuffer.allocate(zip.length + 8).put(zip).putLong(seed).array();
        marked[zip.length - 2] = 8; // the length of the comment
        return marked;
    }

    private static OptionalLong seedOf(byte[] zip) {
        int end = zip.length - 8 - 22; // the record at the end of a zip file has 22 bytes
        boolean isMarked = end > 0 && zip[end] == 'P' && zip[end + 1] == 'K' && zip[end + 2] == 5
                && zip[zip.length - 8 - 2] == 8;
        return isMarked ? OptionalLong.of(ByteBuffer.wrap(zip, zip.length - 8, 8).getLong()) : OptionalLong.empty();
    }

    private static byte[] withDamagedPart(SplittableRandom random, byte[] zip) throws IOException {
        var parts = new LinkedHashMap<String, byte[]>();
        // the JDK's reader does not find the end of parts whose sizes follow them
        try (var in = new ZipArchiveInputStream(new ByteArrayInputStream(zip))) {
            for (var entry = in.getNextEntry(); entry != null; entry = in.getNextEntry())
                parts.put(entry.getName(), in.readAllBytes());
        }
        var sheets = parts.keySet().stream().filter(name -> name.contains("worksheets/")
                || name.contains("sharedStrings")).toList();
        var name = oneOf(random, chance(random, 70) && !sheets.isEmpty() ? sheets : List.copyOf(parts.keySet()));
        if (chance(random, 3)) parts.remove(name);
        else parts.computeIfPresent(name, (_, part) -> damagedXml(random, new String(part, UTF_8)).getBytes(UTF_8));
        var out = new ByteArrayOutputStream();
        try (var zipped = new ZipOutputStream(out)) {
            for (var part : parts.entrySet()) {
                zipped.putNextEntry(new ZipEntry(part.getKey()));
                zipped.write(part.getValue());
            }
        }
        return out.toByteArray();
    }

    /// Damages XML anywhere, or only between or within its elements, so that it can still be read as XML.
    private static String damagedXml(SplittableRandom random, String xml) {
        if (chance(random, 40)) return damaged(random, xml, PIECES);
        boolean isBetween = chance(random, 50);
        var places = Pattern.compile(isBetween ? "(?<=/c>)|(?<=</row>)|(?<=<sheetData>)|(?=</worksheet>)|(?<=</si>)"
                : "(?<==\")[^\"]*(?=\")|(?<=<[vt]>)[^<]*").matcher(xml).results().toList();
        if (places.isEmpty()) return damaged(random, xml, PIECES);
        var place = oneOf(random, places);
        var piece = oneOf(random, isBetween ? PIECES : VALUES);
        return xml.substring(0, place.start()) + piece + xml.substring(place.end());
    }

    // ── Comparing ───────────────────────────────────────────────────────────────────────────────────────────────────

    @Override
    public Result compare(byte[] input, Path folder, SplittableRandom random) throws IOException {
        var file = Files.write(folder.resolve("input.xlsx"), input);
        var seen = Seen.of(file, FuzzedTables.shape(null, null));
        if (seen.refusal().isPresent()) {
            var message = seen.refusal().get();
            if (!message.startsWith(file.toString())) return new Result.Different("no place", message);
            if (message.matches("(?s).*(Exception|java\\.|org\\.|com\\.).*"))
                return new Result.Different("a message with names of Java", message);
        }
        var seed = seedOf(input);
        if (seed.isEmpty()) return seen.refusal().<Result>map(Result.Refused::new).orElseGet(Result.Read::new);
        var table = table(seed.getAsLong());
        boolean isHeaderRepeated = table.stream().skip(1).anyMatch(row -> row.stream().map(cell -> cell.toString().strip())
                .toList().equals(table.getFirst()));
        if (isHeaderRepeated) return seen.refusal().<Result>map(Result.Refused::new)
                .orElseGet(() -> new Result.Different("read, and it repeats the column names", "" + seen.rows()));
        var wanted = rows(table);
        var cells = seen.rows().stream().map(Line::cells).toList();
        if (wanted.isEmpty() && seen.refusal().isPresent()) return new Result.Refused(seen.refusal().get());
        return cells.equals(wanted) ? new Result.Read() : new Result.Different("other rows",
                seen.refusal().orElse("" + cells) + " instead of " + wanted);
    }

    /// The rows as the tool reads them: numbers in plain notation, and no blank rows.
    private static List<Map<String, String>> rows(List<List<Object>> table) {
        var rows = new ArrayList<Map<String, String>>();
        for (var cells : table.subList(1, table.size())) {
            if (cells.stream().allMatch(cell -> cell.toString().isBlank())) continue;
            var row = new LinkedHashMap<String, String>(Map.of(Csv.NUMBERS, "" + (rows.size() + 1)));
            for (int i = 0; i < cells.size(); i++) row.put(table.getFirst().get(i).toString(), text(cells.get(i)));
            rows.add(row);
        }
        return rows;
    }

    private static String text(Object cell) {
        return cell instanceof BigDecimal number ? number.stripTrailingZeros().toPlainString() : cell.toString();
    }
}
